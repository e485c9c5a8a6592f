package pager

import (
	"errors"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// peer is a process of the pager as the agent sees it.
type peer struct {
	*conn
	asking  sync.Mutex
	answers chan message
	gone    chan struct{} // closed when nothing more will be heard
}

func newPeer(c *conn) *peer {
	return &peer{conn: c, answers: make(chan message, 1), gone: make(chan struct{})}
}

// errGone: the process died, or had no more to do.
var errGone = errors.New("the process is not there any more")

// call sends what is answered with opAck, and waits for it.
func (p *peer) call(m message, fds ...int) error {
	p.asking.Lock()
	defer p.asking.Unlock()
	if err := p.tell(m, fds...); err != nil {
		return err
	}
	var ack message
	select {
	case ack = <-p.answers:
	case <-p.gone:
		select {
		case ack = <-p.answers:
		default:
			return errGone
		}
	}
	if ack.Error != "" {
		return errors.New(ack.Error)
	}
	return nil
}

// tell sends m. When the process is gone, the last thing that it said has been heard before the error is returned.
func (p *peer) tell(m message, fds ...int) error {
	err := p.send(m, fds...)
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		<-p.gone
	}
	return err
}

// hear passes on what comes, except for answers, until the process is gone.
func (p *peer) hear(f func(message)) {
	defer close(p.gone)
	for {
		m, _, err := p.recv()
		switch {
		case err != nil:
			p.close()
			return
		case m.Op == opAck:
			p.answers <- m
		default:
			f(m)
		}
	}
}

// queue is a channel of requests without a bound, so that a slow consumer does not keep the pager from telling other things.
type queue struct {
	in   chan []Request
	out  chan Request
	stop chan struct{}
}

func newQueue() *queue {
	q := &queue{make(chan []Request), make(chan Request), make(chan struct{})}
	go q.run()
	return q
}

// put must not be called after close.
func (q *queue) put(rs []Request) { q.in <- rs }

func (q *queue) close() { close(q.stop) }

func (q *queue) run() {
	defer close(q.out)
	var waiting []Request
	for {
		var out chan Request
		var first Request
		if len(waiting) > 0 {
			out, first = q.out, waiting[0]
		}
		select {
		case rs := <-q.in:
			waiting = append(waiting, rs...)
		case out <- first:
			waiting = waiting[1:]
		case <-q.stop:
			return
		}
	}
}
