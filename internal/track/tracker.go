package track

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// methods takes processes in for one kind of tracker.
type methods interface {
	// adopt begins to track a process. An error means that it cannot be tracked at all for now.
	adopt(ctx context.Context, p *process, sp space) (method, error)
}

// method tracks one process.
type method interface {
	// scan returns what must be copied and where earlier copies are void. After an error the method has to be given up: it may have
	// forgotten pages.
	scan(ctx context.Context, sp space) (pages, void []Range, err error)
	final(sp space) (clean []Range, err error)
	copied(ranges []Range, data []byte)
	close()
}

// process is a process that is tracked.
type process struct {
	pid, vpid int
	id        identity
	pagemap   *os.File // stands for the memory that the process had when it was opened
	method    method
}

// alive tells whether the memory that is tracked is still anybody's: the kernel reads nothing from a pagemap whose memory is gone.
func (p *process) alive() bool {
	var word [8]byte
	n, err := unix.Pread(int(p.pagemap.Fd()), word[:], 0)
	return err == nil && n == len(word)
}

func (p *process) close() {
	if p.method != nil {
		p.method.close()
	}
	p.pagemap.Close()
}

// tracker is a Tracker of any kind.
type tracker struct {
	name    string
	pids    func() ([]int, error)
	log     *slog.Logger
	methods methods
	maps    mapReader

	scanning sync.Mutex // held by Scan, Final and Close
	closed   bool

	mu    sync.Mutex // guards the map alone, so that Copied never waits for a scan
	procs map[int]*process
}

func newTracker(k kind, o Options) (Tracker, error) {
	m, err := k.make(o.Log)
	if err != nil {
		return nil, fmt.Errorf("open memory tracker %s: %w", k.name, err)
	}
	return &tracker{name: k.name, pids: o.Pids, log: o.Log, methods: m, procs: map[int]*process{}}, nil
}

func (t *tracker) Name() string { return t.name }

func (t *tracker) Scan(ctx context.Context) ([]Proc, error) { return t.scanAll(ctx, false) }

func (t *tracker) Still(ctx context.Context) ([]Proc, error) { return t.scanAll(ctx, true) }

// scanAll scans all processes; with still only those that are tracked already.
func (t *tracker) scanAll(ctx context.Context, still bool) ([]Proc, error) {
	t.scanning.Lock()
	defer t.scanning.Unlock()
	pids, err := t.ask(ctx)
	if err != nil {
		return nil, err
	}
	t.keep(pids)
	var out []Proc
	for _, pid := range pids {
		p, err := t.scan(ctx, pid, still)
		if e := ctx.Err(); e != nil {
			t.keep(nil) // what was found so far is not reported, and would not be found again
			return nil, fmt.Errorf("scan memory: %w", e)
		}
		if errors.Is(err, ErrGone) {
			t.drop(pid)
			continue
		}
		if err != nil {
			level := slog.LevelWarn
			if vanished(err) {
				level = slog.LevelDebug
			}
			t.log.Log(ctx, level, "process not tracked in this round", "pid", pid, "error", err)
			t.drop(pid)
			p.Reset, p.Void, p.Pages = true, nil, nil
		}
		out = append(out, p)
	}
	return out, nil
}

// vanished tells errors that come from a process that is ending, or executing a program, while we look.
func vanished(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist)
}

// scan scans one process. After an error the result says which process it is, if that is known.
func (t *tracker) scan(ctx context.Context, pid int, still bool) (Proc, error) {
	out := Proc{Pid: pid}
	p, id, err := t.known(pid)
	if err != nil {
		return out, err
	}
	if out.VPid, err = innermost(pid); err != nil {
		return out, err
	}
	sp, err := t.maps.read(pid)
	if err != nil {
		return out, err
	}
	sp.still = still
	if p == nil && still {
		out.Reset = true
		return out, nil
	}
	if p == nil {
		if p, err = t.open(ctx, pid, out.VPid, id, sp); err != nil {
			return out, err
		}
		out.Reset = true
	}
	out.Pages, out.Void, err = p.method.scan(ctx, sp)
	if out.Reset {
		out.Void = nil
	}
	return out, err
}

// known returns the process if it is tracked and still runs the program that it ran.
func (t *tracker) known(pid int) (*process, identity, error) {
	id, _, err := identify(pid)
	if err != nil {
		return nil, id, err
	}
	p := t.get(pid)
	if p != nil && (p.id != id || !p.alive()) {
		return nil, id, nil
	}
	return p, id, nil
}

// open begins to track a process, in place of what was tracked under its number. Whatever the process does meanwhile, the
// identity is older than what is opened, so a program that is executed in between is noticed next time.
func (t *tracker) open(ctx context.Context, pid, vpid int, id identity, sp space) (*process, error) {
	t.drop(pid)
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, gone(pid, fmt.Errorf("open page map of process %d: %w", pid, err))
	}
	p := &process{pid: pid, vpid: vpid, id: id, pagemap: f}
	if p.method, err = t.methods.adopt(ctx, p, sp); err != nil {
		p.close()
		return nil, gone(pid, err)
	}
	t.mu.Lock()
	t.procs[pid] = p
	t.mu.Unlock()
	return p, nil
}

func (t *tracker) Final(ctx context.Context) ([]Proc, error) {
	t.scanning.Lock()
	defer t.scanning.Unlock()
	pids, err := t.ask(ctx)
	if err != nil {
		return nil, err
	}
	var out []Proc
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("final scan of memory: %w", err)
		}
		p, err := t.final(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			t.log.WarnContext(ctx, "nothing of the process counts as copied", "pid", pid, "error", err)
			p.Pages = nil
		}
		out = append(out, p)
	}
	return out, nil
}

func (t *tracker) final(pid int) (Proc, error) {
	out := Proc{Pid: pid}
	p, _, err := t.known(pid)
	if err != nil {
		return out, err
	}
	if out.VPid, err = innermost(pid); err != nil {
		return out, err
	}
	if p == nil {
		out.Reset = true
		return out, nil
	}
	sp, err := t.maps.read(pid)
	if err != nil {
		return out, err
	}
	out.Pages, err = p.method.final(sp)
	return out, err
}

func (t *tracker) Copied(pid int, ranges []Range, data []byte) {
	if p := t.get(pid); p != nil {
		p.method.copied(ranges, data)
	}
}

func (t *tracker) Close() error {
	t.scanning.Lock()
	defer t.scanning.Unlock()
	t.closed = true
	t.keep(nil)
	return nil
}

// ask returns the processes as they are now.
func (t *tracker) ask(ctx context.Context) ([]int, error) {
	if t.closed {
		return nil, fmt.Errorf("scan memory: %w", os.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("scan memory: %w", err)
	}
	pids, err := t.pids()
	if err != nil {
		return nil, fmt.Errorf("list the container's processes: %w", err)
	}
	return pids, nil
}

func (t *tracker) get(pid int) *process {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.procs[pid]
}

func (t *tracker) drop(pid int) {
	t.mu.Lock()
	p := t.procs[pid]
	delete(t.procs, pid)
	t.mu.Unlock()
	if p != nil {
		p.close()
	}
}

// keep drops all processes but these.
func (t *tracker) keep(pids []int) {
	t.mu.Lock()
	stay := make(map[int]bool, len(pids))
	for _, pid := range pids {
		stay[pid] = true
	}
	var leave []int
	for pid := range t.procs {
		if !stay[pid] {
			leave = append(leave, pid)
		}
	}
	t.mu.Unlock()
	for _, pid := range leave {
		t.drop(pid)
	}
}
