package pager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Errors of Filled.
var (
	ErrLost   = errors.New("the container's memory is lost")
	ErrFailed = errors.New("the pager failed")
)

// Stats is what it took to fill the memory.
type Stats struct {
	Faults    int64 // page faults that were answered
	Pages     int64 // pages that were copied
	ZeroPages int64 // faults that were answered with zeros
	Took      time.Duration
}

// Pager is the agent's end. Its methods may be called from several goroutines.
type Pager struct {
	cmd       *exec.Cmd
	guard     *peer
	worker    *peer
	ready     chan int      // the worker's pid
	reaped    chan struct{} // closed when the guard has ended
	requests  *queue
	committed atomic.Bool

	settling sync.Once
	done     chan struct{} // closed when record is there
	record   Record
}

// Start starts the pager's two processes with self, the hidden command that calls RunMain with one more argument, and returns
// when CRIU may connect to the socket in job.Work.
func Start(ctx context.Context, self []string, job Job) (*Pager, error) {
	p := &Pager{ready: make(chan int, 1), reaped: make(chan struct{}), requests: newQueue(), done: make(chan struct{})}
	if err := p.start(self, job); err != nil {
		p.requests.close()
		return nil, fmt.Errorf("start the pager: %w", err)
	}
	select {
	case <-p.ready:
		return p, nil
	case <-p.done:
		p.Abort()
		return nil, fmt.Errorf("start the pager: %s", p.record.Cause)
	case <-ctx.Done():
		p.Abort()
		return nil, fmt.Errorf("start the pager: %w", context.Cause(ctx))
	}
}

func (p *Pager) start(self []string, job Job) error {
	arg, err := invocation{Role: roleGuard, Self: self, Job: job}.encode()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(job.Work, logName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open its log: %w", err)
	}
	defer log.Close()
	guard, theirGuard, err := newPair()
	if err != nil {
		return err
	}
	defer theirGuard.Close()
	worker, theirWorker, err := newPair()
	if err != nil {
		guard.close()
		return err
	}
	defer theirWorker.Close()
	p.cmd = exec.Command(self[0], append(self[1:len(self):len(self)], arg)...)
	p.cmd.Stderr = log
	p.cmd.ExtraFiles = []*os.File{theirGuard, theirWorker} // guardAgentFD, guardWorkerFD
	// a session of its own: a Ctrl-C on the terminal is for the agent
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		guard.close()
		worker.close()
		return err
	}
	p.guard, p.worker = newPeer(guard), newPeer(worker)
	go p.watch()
	return nil
}

// watch hears both processes until they are gone, and reaps the guard, whose child the worker is.
func (p *Pager) watch() {
	go p.guard.hear(p.heard)
	go p.worker.hear(p.heard)
	<-p.guard.gone
	_ = p.cmd.Wait() // its exit status says nothing that its messages did not
	close(p.reaped)
	<-p.worker.gone
	p.settle(Record{Result: ResultLost, Cause: "both processes of the pager died"})
	p.requests.close()
}

func (p *Pager) heard(m message) {
	switch m.Op {
	case opReady:
		p.ready <- m.ID
	case opRequest:
		p.requests.put(m.Requests)
	case opOver:
		p.settle(*m.Record)
	}
}

// settle notes how it ended; the first one to say so is right.
func (p *Pager) settle(r Record) {
	p.settling.Do(func() {
		p.record = r
		close(p.done)
	})
}

// SetPlan hands over the complete list of what is where. Tasks that connected before are served from then on. The slots that the
// plan names, other than remote ones, must be written.
func (p *Pager) SetPlan(plan *Plan) error {
	if err := plan.check(); err != nil {
		return err
	}
	f, err := plan.file()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := p.worker.call(message{Op: opPlan}, int(f.Fd())); err != nil {
		return fmt.Errorf("hand the plan to the pager: %w", err)
	}
	return nil
}

// SetContainer tells whom to kill if memory is lost: all tasks of the cgroup with this freezer state file, and the process that
// is the container's first one; either may be empty, or 0.
func (p *Pager) SetContainer(freezer string, initPid int) error {
	if err := p.guard.call(message{Op: opContainer, Freezer: freezer, ID: initPid}); err != nil {
		return fmt.Errorf("tell the pager the container: %w", err)
	}
	return nil
}

// Fill begins to fill memory in the background. Faults are answered without it. It is of use as soon as the tasks' mappings
// exist, which is when CRIU calls its post-restore hook.
func (p *Pager) Fill() error {
	if err := p.worker.tell(message{Op: opFill}); err != nil {
		return p.unlessFilled(fmt.Errorf("begin to fill memory: %w", err))
	}
	return nil
}

// Commit makes the pager outlive the agent: the container is this host's now. SetContainer must come before.
func (p *Pager) Commit() error {
	p.committed.Store(true)
	if err := p.guard.call(message{Op: opCommit}); err != nil {
		if err = p.unlessFilled(fmt.Errorf("commit the pager: %w", err)); err != nil {
			p.committed.Store(false)
		}
		return err
	}
	return nil
}

// unlessFilled is nil when a process did not answer because everything was done.
func (p *Pager) unlessFilled(err error) error {
	select {
	case <-p.done:
		if p.record.Result == ResultFilled {
			return nil
		}
	default:
	}
	return err
}

// Requests are the remote pages that tasks wait for; each is asked for once. It is closed at the end.
func (p *Pager) Requests() <-chan Request { return p.requests.out }

// Arrived tells that remote pages are in the store now. Their slots must be new ones, that neither the plan nor an arrival
// has named before: the pager gives up slots as soon as nobody needs them. Pages that had arrived before are left alone.
func (p *Pager) Arrived(list ...Arrival) error {
	for len(list) > 0 {
		n := min(len(list), arrivalsAtOnce)
		if err := p.worker.tell(message{Op: opArrived, Arrivals: list[:n]}); err != nil {
			return p.unlessFilled(fmt.Errorf("tell the pager what arrived: %w", err))
		}
		list = list[n:]
	}
	return nil
}

// Lose says that remote pages which have not arrived never will, and why: the container is ended, as when the pager dies.
func (p *Pager) Lose(cause string) error {
	if err := p.worker.tell(message{Op: opLost, Error: cause}); err != nil {
		return p.unlessFilled(fmt.Errorf("tell the pager that memory is lost: %w", err))
	}
	return nil
}

// Filled waits until every page is in place. After ErrLost the container is being killed, if it was named; ErrFailed: it
// never ran.
func (p *Pager) Filled(ctx context.Context) (Stats, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return Stats{}, fmt.Errorf("wait for the pager: %w", context.Cause(ctx))
	}
	r := p.record
	switch r.Result {
	case ResultFilled:
		return Stats{r.Faults, r.Pages, r.ZeroPages, time.Duration(r.MS) * time.Millisecond}, nil
	case ResultLost:
		return Stats{}, fmt.Errorf("%w: %s", ErrLost, r.Cause)
	}
	return Stats{}, fmt.Errorf("%w: %s", ErrFailed, r.Cause)
}

// abortLimit bounds how long a guard may take to end the worker and itself.
const abortLimit = 5 * time.Second

// Abort ends both processes; tasks that miss pages read zeros from then on, so they must not run. It is safe in every state;
// after Commit it does nothing.
func (p *Pager) Abort() {
	if p.committed.Load() {
		return
	}
	if p.guard.tell(message{Op: opAbort}) == nil {
		select {
		case <-p.reaped:
		case <-time.After(abortLimit):
		}
	}
	_ = p.cmd.Process.Kill() // no effect on one that was reaped
	// a worker without guard and agent ends by itself
	p.guard.close()
	p.worker.close()
	<-p.reaped
	p.settle(Record{Result: ResultFailed, Cause: "aborted by the agent"})
}
