package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"migrate/internal/network"
	"migrate/internal/proto"
	"migrate/transfer"
)

const (
	// keepLimit bounds what is kept of packets that come while the container stands still, in bytes.
	keepLimit = 64 << 20
	// lateFrames is for how long frames are forwarded once the container runs at the destination: those that were on their way
	// before switches and peers had heard where it is now.
	lateFrames = 250 * time.Millisecond
)

// packets keeps what peers send to the container while it stands still, and brings it to where the container goes on. All of it is
// a service to peers, who would otherwise have to find out by themselves and send again: nothing fails for want of it.
type packets struct {
	s       *sender
	capture *network.Capture
	back    *network.Injector // into the container here, should it go on here
	stream  *transfer.StreamWriter
	done    chan struct{} // closed when forwarding has ended; nil before it begins
}

// preparePackets does what can be done before the freeze.
func (s *sender) preparePackets() {
	p := &packets{s: s}
	var err error
	if p.capture, err = network.NewCapture(s.h.NetNS, keepLimit); err != nil {
		s.log.Warn("packets that come during the downtime are not kept", "err", err)
		return
	}
	if p.back, err = network.NewInjector(s.h.NetNS); err != nil {
		s.log.Warn("packets that come during the downtime cannot be given back", "err", err)
	}
	s.packets = p
	s.push("let go of packets", func(context.Context) error { p.close(); return nil })
}

// keepNew keeps requests for new connections, which are refused from here on.
func (p *packets) keepNew() {
	if p == nil {
		return
	}
	if err := p.capture.KeepNew(); err != nil {
		p.s.log.Warn("keep new connections", "err", err)
	}
}

// keepAll keeps everything that comes. It goes right before the lock.
func (p *packets) keepAll() {
	if p == nil {
		return
	}
	if err := p.capture.Start(); err != nil {
		p.s.log.Warn("keep packets", "err", err)
	}
}

// forward begins to send what is kept, in order, as it comes.
func (p *packets) forward(ctx context.Context) {
	if p == nil {
		return
	}
	w, err := p.s.open(ctx, proto.StreamPackets, struct{}{}, transfer.None)
	if err != nil {
		p.s.log.Warn("forward packets", "err", err)
		return
	}
	p.stream, p.done = w, make(chan struct{})
	go func() {
		defer close(p.done)
		if err := p.send(ctx); err != nil {
			p.s.log.Debug("forward packets", "err", err)
			w.Reset(resetFailed)
			return
		}
		if err := w.Close(); err != nil {
			p.s.log.Debug("forward packets", "err", err)
		}
	}()
}

func (p *packets) send(ctx context.Context) error {
	for {
		frames, err := p.capture.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := network.WriteFrames(p.stream, frames); err != nil {
			return err
		}
		if err := p.stream.Flush(); err != nil {
			return err
		}
	}
}

// finish forwards what is late and ends. The container runs at the destination since the time given.
func (p *packets) finish(since time.Time) {
	if p == nil {
		return
	}
	p.capture.Forget()
	time.Sleep(time.Until(since.Add(lateFrames)))
	p.end()
	st := p.capture.Stats()
	p.s.rep.Packets, p.s.rep.PacketsLost = st.Kept, st.Dropped
}

// giveBack lets the container here have what was kept. Its network is open again, and it is about to run.
func (p *packets) giveBack() error {
	if p == nil {
		return nil
	}
	if err := p.capture.Stop(); err != nil {
		return fmt.Errorf("stop keeping packets: %w", err)
	}
	if p.back == nil {
		return nil
	}
	if _, err := p.back.Inject(p.capture.Kept()); err != nil {
		return fmt.Errorf("give packets back: %w", err)
	}
	return nil
}

// end stops the capture and waits for the forwarding to end.
func (p *packets) end() {
	if err := p.capture.Stop(); err != nil {
		p.s.log.Debug("stop keeping packets", "err", err)
	}
	if p.done == nil {
		return
	}
	select {
	case <-p.done:
	case <-time.After(forwardLimit):
		p.s.log.Warn("packets are still being forwarded")
	}
}

// forwardLimit bounds how long the last packets may take to be sent.
const forwardLimit = 5 * time.Second

// close lets go of everything; the container's namespace lives as long as something holds it.
func (p *packets) close() {
	p.capture.Close()
	if p.back != nil {
		p.back.Close()
	}
}
