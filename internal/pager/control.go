package pager

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// inherit uses a descriptor that the process was started with.
func inherit(fd int) (*conn, error) {
	unix.CloseOnExec(fd)
	return newConn(os.NewFile(uintptr(fd), "inherited"))
}

// hearAgent does what the agent says until it is gone.
func (w *worker) hearAgent() {
	for {
		m, fd, err := w.agent.recv()
		if err != nil {
			w.log.Info("the agent is gone", "reason", err)
			break
		}
		switch m.Op {
		case opPlan:
			ack := message{Op: opAck}
			if err := w.setPlan(fd); err != nil {
				ack.Error = err.Error()
			}
			_ = w.agent.send(ack) // if it is gone, the next recv tells
		case opFill:
			w.fill()
		case opArrived:
			w.arrived(m.Arrivals)
		case opLost:
			w.fail(errors.New(m.Error))
		default:
			w.log.Warn("the agent says what is not understood", "op", m.Op)
		}
	}
	w.mu.Lock()
	w.agentGone = true
	alone := w.committed
	w.mu.Unlock()
	if alone {
		w.fill() // nobody will say so any more
	}
	w.judge()
}

// hearGuard does what the guard says until it is gone.
func (w *worker) hearGuard() {
	for {
		m, _, err := w.guard.recv()
		if err != nil {
			w.log.Warn("the guard is gone; going on without", "reason", err)
			break
		}
		w.mu.Lock()
		switch m.Op {
		case opCommit:
			w.committed = true
		case opContainer:
			if w.box, err = openBox(m.Freezer, m.ID); err != nil {
				w.log.Warn("the container is not known here", "error", err) // the guard knows it
			}
		}
		alone := w.committed && w.agentGone
		w.mu.Unlock()
		if alone {
			w.fill()
		}
		w.judge()
	}
	w.mu.Lock()
	w.guardGone = true
	w.mu.Unlock()
	w.judge()
}

// setPlan takes over fd.
func (w *worker) setPlan(fd int) error {
	if fd < 0 {
		return errors.New("no plan came with the message")
	}
	f := os.NewFile(uintptr(fd), "plan")
	defer f.Close()
	select {
	case <-w.planned:
		return errors.New("there is a plan already")
	default:
	}
	p, err := readPlan(f)
	if err != nil {
		return err
	}
	st, err := openStore(w.job.Store)
	if err != nil {
		return err
	}
	families := map[int]*family{}
	for _, t := range p.Tasks {
		if families[t.VPID], err = newFamily(t, st, &w.absent); err != nil {
			return errors.Join(err, st.f.Close())
		}
	}
	go func() {
		for range st.ring {
			if err := st.punch(); err != nil {
				w.log.Warn("memory stays occupied twice", "error", err)
				return
			}
		}
	}()
	w.mu.Lock()
	w.store, w.families, w.hot = st, families, p.Hot
	close(w.planned)
	w.dropUnclaimed()
	w.mu.Unlock()
	w.judge()
	return nil
}

// dropUnclaimed gives up the pages of tasks in the plan that were not restored, once it is certain. The caller holds mu.
func (w *worker) dropUnclaimed() {
	if !w.restored.Load() {
		return
	}
	for vpid, f := range w.families {
		if !w.claimed[vpid] {
			f.first.finish(0, maxAddr, f.drop)
		}
	}
}

// fill starts the fillers, once there is a plan.
func (w *worker) fill() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.filling {
		return
	}
	w.filling = true
	for range w.job.Workers {
		go func() {
			<-w.planned
			newFiller(w).work()
		}()
	}
}

// arrived makes pages that came the next to be filled, where the plan has them; those that their task has moved meanwhile are
// found when all have come, unless the task waits for them. To look at everything after each arrival would take time without end.
func (w *worker) arrived(list []Arrival) {
	for _, a := range list {
		w.mu.Lock()
		f := w.families[a.VPID]
		w.mu.Unlock()
		if f == nil {
			w.log.Warn("pages arrived of a task that the plan does not name", "vpid", a.VPID)
			continue
		}
		if err := f.arrive(a); err != nil {
			w.fail(fmt.Errorf("take pages that arrived: %w", err))
			return
		}
		for _, s := range w.spacesOf(a.VPID) {
			s.kick()
		}
		w.mu.Lock()
		w.hot = append(w.hot, Range{a.VPID, a.Addr, a.Pages})
		w.mu.Unlock()
	}
	if w.absent.Load() == 0 {
		w.looks.Add(1)
	}
	w.bell.ring()
}

func (w *worker) request(r Request) {
	// without an agent the page cannot come: judge decides what follows
	_ = w.agent.send(message{Op: opRequest, Requests: []Request{r}})
}

// completeRestore notes that CRIU is done.
func (w *worker) completeRestore() {
	w.mu.Lock()
	w.restoredAt = time.Now()
	w.restored.Store(true)
	w.dropUnclaimed()
	w.mu.Unlock()
	_ = w.guard.send(message{Op: opRestored}) // a guard that is gone need not know
	for _, s := range w.allSpaces() {
		s.kick()
	}
	w.lookAgain()
	w.judge()
}
