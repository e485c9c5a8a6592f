package pager

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// guard is the process that holds duplicates of all descriptors.
type guard struct {
	job    Job
	log    *slog.Logger
	agent  *conn
	worker *conn
	child  *exec.Cmd

	held      map[int]int // descriptors by address space
	box       *box        // nil until the agent names the container
	committed bool
	restored  bool
	last      *Record // what the worker said at its end
}

// Descriptors that a guard inherits.
const (
	guardAgentFD  = 3
	guardWorkerFD = 4 // to be handed on: the worker's connection to the agent
)

// heard is a message, or the end of those who could send one.
type heard struct {
	message
	fd  int
	err error
}

func runGuard(inv invocation, log *slog.Logger) int {
	g := &guard{job: inv.Job, log: log, held: map[int]int{}}
	var err error
	if g.agent, err = inherit(guardAgentFD); err == nil {
		err = g.startWorker(inv)
	}
	if err != nil {
		log.Error("the pager does not start", "error", err)
		return 1
	}
	agent, worker := listenTo(g.agent), listenTo(g.worker)
	for {
		select {
		case h := <-agent:
			if h.err != nil {
				if !g.committed {
					return g.stop("the agent ended before the commit")
				}
				g.log.Info("the agent is gone; going on without", "reason", h.err)
				agent = nil
				continue
			}
			if h.Op == opAbort && !g.committed {
				return g.stop("aborted by the agent")
			}
			g.obey(h.message)
		case h := <-worker:
			if h.err != nil {
				return g.conclude(agent)
			}
			g.note(h)
		}
	}
}

// listenTo receives until the other end is gone.
func listenTo(c *conn) <-chan heard {
	ch := make(chan heard)
	go func() {
		for {
			m, fd, err := c.recv()
			ch <- heard{m, fd, err}
			if err != nil {
				return
			}
		}
	}()
	return ch
}

func (g *guard) startWorker(inv invocation) error {
	unix.CloseOnExec(guardWorkerFD)
	toAgent := os.NewFile(guardWorkerFD, "agent")
	defer toAgent.Close()
	inv.Role = roleWorker
	arg, err := inv.encode()
	if err != nil {
		return err
	}
	ours, theirs, err := newPair()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd := exec.Command(inv.Self[0], append(inv.Self[1:len(inv.Self):len(inv.Self)], arg)...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{toAgent, theirs}
	if err := cmd.Start(); err != nil {
		ours.close()
		return fmt.Errorf("start the pager's worker: %w", err)
	}
	g.worker, g.child = ours, cmd
	return nil
}

// obey does what the agent asks for and answers.
func (g *guard) obey(m message) {
	var err error
	switch m.Op {
	case opContainer:
		var b *box
		if b, err = openBox(m.Freezer, m.ID); err == nil {
			g.box = b
			_ = g.worker.send(m) // one that is gone is noticed elsewhere
		}
	case opCommit:
		if g.box == nil {
			err = errors.New("the container was not named")
			break
		}
		g.committed = true
		_ = g.worker.send(m)
	default:
		err = fmt.Errorf("%q is not understood", m.Op)
	}
	ack := message{Op: opAck}
	if err != nil {
		ack.Error = err.Error()
	}
	_ = g.agent.send(ack) // if it is gone, the next message tells
}

// note takes in what the worker says.
func (g *guard) note(h heard) {
	switch h.Op {
	case opHold:
		if h.fd < 0 {
			g.log.Error("a descriptor did not arrive", "id", h.ID)
			return
		}
		g.held[h.ID] = h.fd
	case opRelease:
		if fd, ok := g.held[h.ID]; ok {
			_ = unix.Close(fd)
			delete(g.held, h.ID)
		}
	case opRestored:
		g.restored = true
	case opOver:
		g.last = h.Record
	}
}

// endWorker kills the worker, if it is still there, and reaps it. Its exit status says nothing that its messages did not.
func (g *guard) endWorker() error {
	_ = g.child.Process.Kill()
	return g.child.Wait()
}

// stop ends everything; what is not filled stays so, and the container must not run.
func (g *guard) stop(cause string) int {
	_ = g.endWorker()
	rec := Record{Result: ResultFailed, Cause: cause}
	g.publish(rec)
	return 1
}

// publish leaves the record and tells the agent.
func (g *guard) publish(rec Record) {
	if err := rec.write(g.job.Record); err != nil {
		g.log.Error("no record", "error", err)
	}
	if rec.Result != ResultFilled {
		g.log.Error("the pager ends", "result", rec.Result, "cause", rec.Cause)
	}
	_ = g.agent.send(message{Op: opOver, Record: &rec}) // it may be gone
}

// conclude is for when the worker is gone. If memory is missing it kills the container, as soon as it is known which that is.
func (g *guard) conclude(agent <-chan heard) int {
	died := g.endWorker()
	if g.last != nil && g.last.Result == ResultFilled {
		_ = g.agent.send(message{Op: opOver, Record: g.last})
		return 0
	}
	if g.last == nil && g.restored && len(g.held) == 0 { // it died after its work was done
		g.log.Warn("the worker died after the last page", "status", died)
		g.publish(Record{Result: ResultFilled})
		return 0
	}
	rec := Record{Result: ResultLost, Cause: fmt.Sprintf("the worker died: %v", died)}
	if g.last != nil {
		rec = *g.last
	}
	if g.committed {
		rec.Result = ResultLost
	}
	if g.box != nil {
		g.box.kill(g.log)
		g.publish(rec)
		return 1
	}
	g.publish(rec)
	for h := range agent { // until the agent has cleaned up, or is gone itself
		if h.err != nil || h.Op == opAbort {
			break
		}
		if g.obey(h.message); g.box != nil {
			g.box.kill(g.log)
			break
		}
	}
	return 1
}
