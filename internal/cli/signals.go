package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"migrate/internal/report"
)

// keepWriting makes a reader of our output that goes away (`migrate send … | head`) an error of that write. By default
// it would end the process, at any moment of a hand-over.
func keepWriting() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}

// interrupts are the signals that end a migration. SIGHUP is among them so that a terminal that goes away cancels like
// Ctrl-C instead of killing the agent.
var interrupts = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// interruptedError is the cause of a context that a signal ended.
type interruptedError struct{ sig os.Signal }

func (e *interruptedError) Error() string { return "ended by a signal: " + e.sig.String() }

// Is matches context.Canceled, which is what the agents look for.
func (e *interruptedError) Is(target error) bool { return target == context.Canceled }

// canceller decides what a signal does to a migration. It watches the phases, since after GO cancelling is over.
type canceller struct {
	cancel context.CancelCauseFunc
	say    func(string)

	mu    sync.Mutex
	phase string
	count int // signals in a phase in which one alone does nothing
}

// observe notes the phase.
func (c *canceller) observe(ev report.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !ev.End && ev.Phase != "" && ev.Phase != c.phase {
		c.phase, c.count = ev.Phase, 0
	}
}

// handle reacts to a signal.
func (c *canceller) handle(sig os.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch c.phase {
	case report.Handover:
		c.count++
		if c.count == 1 {
			c.say("the container is being handed over and the migration can't be cancelled any more; " +
				"a second signal ends the wait for the destination's answer, if there is none, with the container frozen here")
			return
		}
		c.cancel(&interruptedError{sig})
	case report.Serve:
		c.count++
		if c.count == 1 {
			c.say("the container runs at the destination, and part of its memory is still here: without it the container is lost; " +
				"a second signal gives it up all the same")
			return
		}
		c.cancel(&interruptedError{sig})
	case report.Finish:
		c.say("the container runs at the destination already; only clean-up is left")
	default:
		c.say(fmt.Sprintf("%v: cancelling, the container stays here", sig))
		c.cancel(&interruptedError{sig})
	}
}

// watch handles signals until stop is called.
func (c *canceller) watch() (stop func()) {
	ch := make(chan os.Signal, 4)
	done := make(chan struct{})
	signal.Notify(ch, interrupts...)
	go func() {
		for {
			select {
			case sig := <-ch:
				c.handle(sig)
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(ch)
		close(done)
	}
}
