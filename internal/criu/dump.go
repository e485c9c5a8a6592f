package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// DumpRequest names the container to dump and the directories to use. The directories exist and are the caller's;
// ImageDir should be in memory, since it receives the container's memory.
type DumpRequest struct {
	Self     []string // how to run this program as a guard; the job follows as the last argument
	Runtime  string   // e.g. runc
	Root     string   // the runtime's --root
	ID       string   // the container as the runtime knows it
	ConfigAt string   // the file from which the runtime makes CRIU read its configuration
	ImageDir string
	WorkDir  string // gets CRIU's log
	HookDir  string
	TCP      TCPMode
	Engine   string // see GuardJob
	NetNS    string
	NetNSAt  string   // see GuardJob
	Freezer  string   // see GuardJob
	Stage    string   // see GuardJob
	External []string // see Config
	Keep     *os.File // what a guard inherits, for as long as it has to do with the container; nil: nothing
	Lazy     bool     // leave memory that may come later in the tasks: see LazyLimit for how much

	// ByReference makes a lazy dump take references to memory in any case, as it has to where no parent can be claimed: see claim.go.
	ByReference bool
}

// Dump is a checkpoint of a container, from its preparation to its end.
type Dump struct {
	req   DumpRequest
	hook  *Hook
	guard *guard
	over  atomic.Bool // Commit or Abort was called
}

// PrepareDump does everything that can be done while the container still runs. CRIU waits when it returns.
func PrepareDump(ctx context.Context, req DumpRequest) (*Dump, error) {
	hook, err := NewHook(req.HookDir, ActionPreDump, ActionPostDump)
	if err != nil {
		return nil, err
	}
	base, err := os.ReadFile(req.ConfigAt)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		hook.Close()
		return nil, fmt.Errorf("read the host's CRIU configuration: %w", err)
	}
	conf := filepath.Join(req.HookDir, "criu.conf")
	config := Config{TCP: req.TCP, ActionScript: hook.Script(), Base: base, LazyPages: req.Lazy, noServer: req.Lazy, External: req.External}
	if err := config.Write(conf); err != nil {
		hook.Close()
		return nil, err
	}
	claim := Claim{}
	if req.Lazy {
		if err := req.discardPages(); err != nil {
			hook.Close()
			return nil, err
		}
	}
	if req.Lazy && !req.ByReference {
		config.LazyPages, config.noServer, config.parent = false, false, filepath.Join("..", parentName)
		if claim, err = req.prepareClaim(config); err != nil && !errors.Is(err, errNoClaim) {
			hook.Close()
			return nil, err
		}
	}
	// leave-running: should the runtime not call our hook, it must not end the container
	args := []string{"--root", req.Root, "checkpoint", "--leave-running", "--image-path", req.ImageDir, "--work-path", req.WorkDir, "--file-locks"}
	if req.TCP == TCPEstablished {
		args = append(args, "--tcp-established")
	}
	g, err := startGuard(ctx, req.Self, GuardJob{
		Runtime: req.Runtime, Args: append(args, req.ID), Config: conf, ConfigAt: req.ConfigAt,
		Output: filepath.Join(req.WorkDir, "runtime.out"), Engine: req.Engine, ID: req.ID, NetNS: req.NetNS, NetNSAt: req.NetNSAt, Freezer: req.Freezer, Stage: req.Stage,
		Lazy: req.Lazy, Claim: claim, Keeps: req.Keep != nil,
	}, req.Keep)
	if err != nil {
		hook.Close()
		return nil, err
	}
	d := &Dump{req: req, hook: hook, guard: g}
	if err := d.launch(ctx); err != nil {
		d.Abort(NewFreezer(""), 0) // nothing is frozen yet
		return nil, err
	}
	return d, nil
}

// launch starts runtime and CRIU, up to where CRIU would look for the processes: the pre-dump hook. What it takes to
// start them, and what makes them fail, comes before the freeze.
func (d *Dump) launch(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, launchLimit, ErrLaunch)
	defer cancel()
	if err := d.guard.say(wordBegin); err != nil {
		return err
	}
	return d.wait(ctx, ActionPreDump)
}

// ErrLaunch says that runtime and CRIU did not get ready to dump in time. The container was not touched.
var ErrLaunch = fmt.Errorf("the runtime and CRIU were not ready within %v", launchLimit)

// launchLimit bounds the start of runtime and CRIU; the container still runs.
const launchLimit = 20 * time.Second

// Alters says whether the image set is still altered at the end of the dump: its pages files must not be read before Settle has
// returned.
func (d *Dump) Alters() bool { return d.req.Lazy }

// Begin starts the dump of a container that is frozen and whose network is locked.
func (d *Dump) Begin() error {
	if d.guard.claims.Load() {
		if err := d.req.claimMemory(); err != nil {
			return err
		}
	}
	return d.hook.Release(true)
}

// WaitHeld returns when CRIU is done with the images and the tasks are held. When ctx ends first the dump goes on; call Abort.
func (d *Dump) WaitHeld(ctx context.Context) error { return d.wait(ctx, ActionPostDump) }

// Settle completes the image set of a dump that Alters it, with what it reads from the tasks. Of shared memory the set says then which pages
// are there, and has none of them. Freeze the tasks again before, so that they stand still whatever becomes of CRIU.
func (d *Dump) Settle() error {
	if !d.Alters() {
		return nil
	}
	return d.req.settle(d.guard.claims.Load())
}

func (d *Dump) wait(ctx context.Context, action string) error {
	for {
		select {
		case ev, ok := <-d.hook.Events():
			if !ok {
				return ErrHookClosed
			}
			if ev.Action == action {
				return nil
			}
		case code, ok := <-d.guard.exit:
			return d.failure(code, ok)
		case <-ctx.Done():
			return fmt.Errorf("dump the container: %w", context.Cause(ctx))
		}
	}
}

// PointOfNoReturn tells the guard that GO is about to leave, so that it does not thaw should this process die.
func (d *Dump) PointOfNoReturn() error { return d.guard.say(wordGo) }

// Commit makes CRIU let go of the tasks, which stay frozen, kills them, and thaws them to die. When it returns neither
// CRIU nor the runtime are there any more. The error says what may be left.
func (d *Dump) Commit(ctx context.Context, f *Freezer) error {
	d.over.Store(true)
	defer d.hook.Close()
	if d.req.Lazy {
		return d.commitLazy(ctx, f)
	}
	if err := d.hook.Release(true); err != nil {
		return err
	}
	var failed error
	select {
	case code, ok := <-d.guard.exit:
		if !ok || code != 0 {
			failed = d.failure(code, ok)
		}
	case <-ctx.Done():
		d.guard.kill()
		failed = fmt.Errorf("end the dump: %w", context.Cause(ctx))
	}
	d.guard.control.Close() // it knows since PointOfNoReturn that the container is none of its business
	if err := f.KillAll(); err != nil {
		return errors.Join(failed, err) // what could not be killed stays frozen
	}
	// killed while frozen: none of them runs again
	return errors.Join(failed, f.Thaw())
}

// Abort makes CRIU let the tasks go and returns when neither CRIU nor the runtime touch them any more; their cgroup is
// frozen as it was before, but if CRIU had to be killed sockets may be left in repair mode: see RepairOff. It works in
// every state, also before Begin, and kills what does not end in patience.
// Only the first call of Abort or Commit does anything.
func (d *Dump) Abort(f *Freezer, patience time.Duration) {
	if d.over.Swap(true) {
		return
	}
	defer d.hook.Close()
	_ = d.hook.Release(false) // the pipe has room for a verdict always
	_ = d.settle()
	if !d.underWay() {
		patience = 0 // CRIU has touched nothing yet, and shall not begin
	}
	select {
	case <-d.guard.exit:
	case <-time.After(patience):
		_ = f.Freeze() // CRIU thaws what it holds by itself; a container that cannot be frozen is still let go
		d.guard.kill()
		for range d.guard.exit { // until it is closed: the guard is gone
		}
	}
}

// underWay says whether CRIU has begun: its log is the first thing it makes.
func (d *Dump) underWay() bool {
	_, err := os.Stat(d.Log())
	return err == nil
}

// settle tells the guard that the container is the agent's business.
func (d *Dump) settle() error {
	defer d.guard.control.Close()
	return d.guard.say(wordDone)
}

// Log is the path of CRIU's log.
func (d *Dump) Log() string { return DumpLog(d.req.WorkDir) }

// DumpLog is where CRIU logs a dump whose work directory is dir.
func DumpLog(dir string) string { return filepath.Join(dir, "dump.log") }

// failure turns a runtime that ended before the hold into an error.
func (d *Dump) failure(code int, exited bool) error {
	e := &Failure{Log: d.Log()}
	out, _ := os.ReadFile(filepath.Join(d.req.WorkDir, "runtime.out"))
	e.Output = lastLine(string(out))
	if c, err := FirstCause(e.Log); err == nil {
		e.Cause = c
	} else {
		e.Log = ""
	}
	if !exited && e.Output == "" {
		e.Output = "the guard ended: " + lastLine(d.guard.stderr.String())
	} else if e.Output == "" {
		e.Output = fmt.Sprintf("the runtime ended with status %d", code)
	}
	return e
}

// Failure is a dump or restore that the runtime gave up.
type Failure struct {
	Cause  Cause  // of CRIU's log; empty when there was none
	Output string // the runtime's last line
	Log    string // path of CRIU's log, "" when there is none
}

func (e *Failure) Error() string {
	if e.Cause.Text != "" {
		return e.Cause.String()
	}
	return Unexplained(e.Output)
}

// lastLine is the last line of a program's output, without what runc's logger puts around the message.
func lastLine(s string) string {
	s = strings.TrimSpace(s)
	s = s[strings.LastIndexByte(s, '\n')+1:]
	if _, msg, ok := strings.Cut(s, " msg="); ok {
		if plain, err := strconv.Unquote(msg); err == nil {
			return plain
		}
		return msg
	}
	return s
}
