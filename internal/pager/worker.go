package pager

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// worker is the process that answers CRIU and fills memory.
type worker struct {
	job   Job
	log   *slog.Logger
	agent *conn
	guard *conn
	box   *box // the container, for when the guard is dead; guarded by mu

	restored atomic.Bool  // CRIU is done: all mappings exist, and the tasks may run
	absent   atomic.Int64 // remote pages that are missing somewhere
	faults   atomic.Int64
	copied   atomic.Int64
	zeros    atomic.Int64

	bell    *bell         // there may be something to fill
	looks   atomic.Uint64 // how often anything but an arrival has made it worth to look at everything
	verdict chan error    // how it ended, nil: everything is filled
	planned chan struct{}

	store *store // set when planned is closed

	mu         sync.Mutex // taken after a space's mu, never before
	families   map[int]*family
	claimed    map[int]bool // vpids that CRIU has sent
	hot        []Range      // to be filled before everything else: what the plan says, then what has arrived
	spaces     []*space     // those that may be filled
	live       int          // address spaces that were not let go
	ids        int
	restoredAt time.Time
	filling    bool
	committed  bool
	agentGone  bool
	guardGone  bool
}

// Descriptors that a worker inherits.
const (
	workerAgentFD = 3
	workerGuardFD = 4
)

// extraProcs is how many threads may run Go code at once beside the fillers: one that comes back from a system call with a fault
// must not queue behind them.
const extraProcs = 16

func runWorker(job Job, log *slog.Logger) int {
	if job.Workers <= 0 {
		job.Workers = runtime.NumCPU()
	}
	runtime.GOMAXPROCS(job.Workers + extraProcs)
	w := &worker{
		job: job, log: log, bell: newBell(), verdict: make(chan error, 1), planned: make(chan struct{}),
		families: map[int]*family{}, claimed: map[int]bool{},
	}
	var err error
	if w.agent, err = inherit(workerAgentFD); err == nil {
		w.guard, err = inherit(workerGuardFD)
	}
	if err != nil {
		log.Error("the pager does not start", "error", err)
		return 1
	}
	go w.hearGuard()
	l, err := listen(job.Work)
	if err == nil {
		if err = w.agent.send(message{Op: opReady, ID: os.Getpid()}); err == nil {
			go w.hearAgent()
			go w.hearCRIU(l)
			err = <-w.verdict
		}
	}
	return w.finish(err)
}

// fail ends the pager. What the address spaces miss stays missing: the guard holds them.
func (w *worker) fail(err error) {
	select {
	case w.verdict <- err:
	default: // the first cause counts
	}
}

// errAbandoned: neither agent nor guard is there any more, and the container is not this host's.
var errAbandoned = errors.New("the agent ended before the commit")

// finish leaves the record and tells everybody. The process must end then.
func (w *worker) finish(err error) int {
	rec := w.record(err)
	if err == nil {
		w.log.Info("all memory is in place", "faults", rec.Faults, "pages", rec.Pages, "zero_pages", rec.ZeroPages, "ms", rec.MS)
		w.publish(rec)
		_ = w.guard.send(message{Op: opOver, Record: &rec}) // if it is gone, it holds nothing
		return 0
	}
	w.log.Error("the pager ends", "result", rec.Result, "error", err)
	// the guard does the rest; should it die just now, nobody holds the descriptors that this process closes
	if w.guard.send(message{Op: opOver, Record: &rec}) == nil {
		return 1
	}
	w.mu.Lock()
	container := w.box
	w.mu.Unlock()
	if container != nil && !errors.Is(err, errAbandoned) {
		container.kill(w.log)
	}
	w.publish(rec)
	return 1
}

// publish leaves the record and tells the agent.
func (w *worker) publish(rec Record) {
	if err := rec.write(w.job.Record); err != nil {
		w.log.Error("no record", "error", err)
	}
	_ = w.agent.send(message{Op: opOver, Record: &rec}) // it may be gone
}

func (w *worker) record(err error) Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	rec := Record{Result: ResultFilled, Faults: w.faults.Load(), Pages: w.copied.Load(), ZeroPages: w.zeros.Load()}
	if !w.restoredAt.IsZero() {
		rec.MS = time.Since(w.restoredAt).Milliseconds()
	}
	if err != nil {
		rec.Result, rec.Cause = ResultFailed, err.Error()
		if w.committed || w.restored.Load() && !errors.Is(err, errAbandoned) {
			rec.Result = ResultLost
		}
	}
	return rec
}

// connected takes over the descriptor of a task that CRIU restores.
func (w *worker) connected(vpid, fd int) error {
	w.mu.Lock()
	twice := w.claimed[vpid]
	w.claimed[vpid] = true
	w.mu.Unlock()
	if twice {
		return fmt.Errorf("CRIU sent vpid %d twice", vpid)
	}
	s, err := w.admit(vpid, fd)
	if err != nil {
		return err
	}
	go func() {
		<-w.planned
		w.mu.Lock()
		if f := w.families[vpid]; f != nil {
			s.family, s.pages = f, f.first
		}
		w.mu.Unlock()
		w.enter(s)
		s.serve()
	}()
	return nil
}

// forked takes over the descriptor of a child, which misses what its parent misses at this moment. The caller holds the parent's mu.
func (w *worker) forked(parent *space, fd int) error {
	s, err := w.admit(parent.vpid, fd)
	if err != nil {
		return err
	}
	s.family, s.pages = parent.family, parent.pages.copy()
	s.pages.each(func(src source, n uint32) {
		if uerr := s.family.use(src, n); uerr != nil {
			err = fmt.Errorf("take over from the parent of vpid %d: %w", parent.vpid, uerr)
		}
	})
	if err != nil {
		return err
	}
	w.enter(s)
	go s.serve()
	return nil
}

// admit makes an address space and hands a duplicate of its descriptor to the guard.
func (w *worker) admit(vpid, fd int) (*space, error) {
	w.mu.Lock()
	w.ids++
	w.live++
	id, guardGone := w.ids, w.guardGone
	w.mu.Unlock()
	s, err := newSpace(w, id, vpid, fd)
	if err != nil {
		return nil, err
	}
	if !guardGone {
		if err := w.guard.send(message{Op: opHold, ID: id}, fd); err != nil {
			w.log.Warn("nobody holds the memory if this process dies", "vpid", vpid, "error", err)
		}
	}
	return s, nil
}

// enter lets the fillers have an address space.
func (w *worker) enter(s *space) {
	w.mu.Lock()
	w.spaces = append(w.spaces, s)
	w.mu.Unlock()
	w.lookAgain()
}

// lookAgain makes the fillers look at everything once more.
func (w *worker) lookAgain() {
	w.looks.Add(1)
	w.bell.ring()
}

func (w *worker) release(s *space) {
	_ = w.guard.send(message{Op: opRelease, ID: s.id}) // a guard that is gone holds nothing
}

// ended is called when an address space was let go.
func (w *worker) ended(s *space) {
	w.mu.Lock()
	w.spaces = slices.DeleteFunc(slices.Clone(w.spaces), func(o *space) bool { return o == s })
	w.live--
	w.mu.Unlock()
	w.log.Info("address space complete", "vpid", s.vpid, "id", s.id)
	w.judge()
}

// judge ends the pager when there is nothing more to do, or nothing more that it could do.
func (w *worker) judge() {
	w.mu.Lock()
	defer w.mu.Unlock()
	planned := false
	select {
	case <-w.planned:
		planned = true
	default:
	}
	absent := w.absent.Load()
	switch {
	case w.restored.Load() && planned && w.live == 0:
		w.fail(nil)
	case w.agentGone && w.guardGone && !w.committed:
		w.fail(errAbandoned)
	case w.agentGone && w.committed && absent > 0:
		w.fail(fmt.Errorf("the agent is gone, and %d pages have not arrived", absent))
	}
}

// allSpaces are those to be filled now; the slice is shared and must not be changed.
func (w *worker) allSpaces() []*space {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.spaces[:len(w.spaces):len(w.spaces)]
}

func (w *worker) spacesOf(vpid int) []*space {
	var list []*space
	for _, s := range w.allSpaces() {
		if s.vpid == vpid {
			list = append(list, s)
		}
	}
	return list
}

func (w *worker) nextHot() (Range, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.hot) == 0 {
		return Range{}, false
	}
	r := w.hot[0]
	w.hot = w.hot[1:]
	return r, true
}
