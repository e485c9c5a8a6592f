package track

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// PageSize is the only base page size that is supported, in bytes.
const PageSize = 4096

// Kinds of trackers, as Options.Kind and Tracker.Name have them.
const (
	Auto      = "auto" // the best that the host can do
	WP        = "wp"
	SoftDirty = "soft-dirty"
	Hash      = "hash"
)

// Proc is what one scan says of one process.
type Proc struct {
	Pid   int     // in this host's pid namespace
	VPid  int     // in the innermost pid namespace (the last of NSpid:), what CRIU names images by
	Reset bool    // new here, has executed another program, or is tracked anew: every earlier copy of this VPid is void
	Void  []Range // earlier copies in these are void: mappings that are new there, or moved there
	Pages []Range // Scan: to be copied now; Final: clean. Ascending, apart from each other
}

// Tracker tracks the processes of one container. Its methods may be called by several goroutines; Scan, Still and Final wait for
// each other, Copied waits for neither.
type Tracker interface {
	// Name is the kind of the tracker: WP, SoftDirty or Hash.
	Name() string

	// Scan lists the pages of private memory whose content must be copied (again): written since the previous Scan, or never
	// reported. A page that is written after Scan returned, or while it is being copied, is reported by the next one. Processes
	// that ended are not listed; a process that shares all its memory with one that is tracked (a child of vfork) is listed without
	// pages. An error, which the context's end or Options.Pids causes, loses nothing: the next Scan starts afresh.
	// The container must not be frozen meanwhile: wp may have to run two system calls in a new process.
	Scan(ctx context.Context) ([]Proc, error)

	// Still is Scan for processes that stand still: those that are not tracked yet cannot be taken in, and are listed without pages.
	Still(ctx context.Context) ([]Proc, error)

	// Copied tells what the caller has read: the content of ranges of the process, one after the other in data. All copies that
	// are kept must be told, in the order in which they replace each other; a page whose read failed must not be among them.
	// Hashed memory that is not told of is reported by every Scan and never clean. data is not kept.
	Copied(pid int, ranges []Range, data []byte)

	// Final lists, for processes that all stand still (frozen, or held by CRIU's ptrace), the pages that are clean: what was
	// copied after the last Scan that reported them is still their content. Everything else must be copied. It changes nothing, so
	// it may be called again.
	Final(ctx context.Context) ([]Proc, error)

	// Close leaves the processes as they were: not registered, no descriptor in them, nothing stopped.
	Close() error
}

// Options of Open.
type Options struct {
	Pids func() ([]int, error) // the container's processes in this host's pid namespace; asked by every Scan and Final
	Kind string                // Auto if empty
	Log  *slog.Logger          // for what degrades tracking of single processes; may be nil
}

// UnavailableError says that a kind of tracker cannot be had on this host.
type UnavailableError struct {
	What   string // the kind
	Why    string
	Remedy string
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("memory tracker %s is not available: %s", e.What, e.Why)
}

// kind is one way to track: whether the host has it, and how a process is taken in.
type kind struct {
	name  string
	check func() *UnavailableError
	make  func(*slog.Logger) (methods, error)
}

// kinds are all there are, best first.
var kinds = []kind{
	{WP, checkWP, newWPMethods},
	{SoftDirty, checkSoftDirty, newSoftDirtyMethods},
	{Hash, func() *UnavailableError { return nil }, newHashMethods},
}

// Available lists the kinds that this host can do, best first.
func Available() []string {
	var names []string
	for _, k := range kinds {
		if k.check() == nil {
			names = append(names, k.name)
		}
	}
	return names
}

// Open makes a tracker of the kind that the options name, or the best there is; it touches no process yet. A kind that the host
// cannot do is an *UnavailableError.
func Open(ctx context.Context, o Options) (Tracker, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open memory tracker: %w", err)
	}
	if o.Pids == nil {
		return nil, errors.New("open memory tracker: nobody to ask for the processes")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
		auto := o.Kind == "" || o.Kind == Auto
		if !auto && o.Kind != k.name {
			continue
		}
		if why := k.check(); why == nil {
			return newTracker(k, o)
		} else if !auto {
			return nil, why
		} else {
			o.Log.DebugContext(ctx, "memory tracker not available", "tracker", k.name, "reason", why.Why)
		}
	}
	return nil, fmt.Errorf("open memory tracker: unknown kind %q, there are %s", o.Kind, strings.Join(names, ", "))
}
