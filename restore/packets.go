package restore

import (
	"context"
	"errors"
	"io"
	"time"

	"migrate/internal/network"
	"migrate/transfer"
)

// keepLimit bounds what is kept of packets until the container can take them, in bytes.
const keepLimit = 64 << 20

// packets gives the container what peers sent to it while it stood still. All of it is a service to peers, who would
// otherwise have to send again: nothing fails for want of it.
type packets struct {
	r         *receiver
	gate      *network.Gate
	injector  *network.Injector  // nil when there is no way into the container's interfaces
	announcer *network.Announcer // nil when it could not be made
	began     bool               // a stream came; under the lock of streams
	ended     chan struct{}      // closed when the stream has ended
}

func newPackets(r *receiver) *packets {
	p := &packets{r: r, ended: make(chan struct{})}
	p.gate = network.NewGate(p.inject, keepLimit)
	return p
}

func (p *packets) inject(frames []network.Frame) (int, error) {
	if p.injector == nil {
		return 0, nil
	}
	return p.injector.Inject(frames)
}

// attach finds the way into the container's interfaces, which exist by now and are locked.
func (p *packets) attach(netns string, neighbours []network.Neighbour) {
	if err := network.SetNeighbours(netns, neighbours); err != nil {
		p.r.log.Warn("tell the container of its neighbours", "err", err)
	}
	var err error
	if p.injector, err = network.NewInjector(netns); err != nil {
		p.r.log.Warn("packets that came during the downtime cannot be delivered", "err", err)
	}
	if p.announcer, err = network.NewAnnouncer(netns); err != nil {
		p.r.log.Warn("prepare to announce the container", "err", err)
	}
}

// takePackets keeps frames, or delivers them once the container's network is open.
func (s *streams) takePackets(st *transfer.StreamReader) error {
	p := s.r.packets
	if p == nil {
		return errors.New("protocol error: packets for a container without a network of its own")
	}
	if err := s.claim("packets", func() bool { return !p.began }, func() { p.began = true }); err != nil {
		return err
	}
	defer close(p.ended)
	for {
		frames, err := network.ReadFrames(st)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if errors.Is(err, network.ErrFrames) {
			return err
		}
		if err != nil {
			s.r.log.Debug("receive packets", "err", err) // the source has given up, or the link broke: others tell
			return nil
		}
		if err := p.gate.Put(frames); err != nil {
			s.r.log.Debug("keep packets", "err", err)
		}
	}
}

// open tells switches and peers where the container is now, and delivers what was kept. The network is open.
func (p *packets) open() {
	if p.announcer != nil {
		if err := p.announcer.Send(); err != nil {
			p.r.log.Warn("announce the container", "err", err)
		}
	}
	if n, err := p.gate.Open(); err != nil {
		p.r.log.Warn("deliver packets that came during the downtime", "delivered", n, "err", err)
	}
}

// finish waits for the last of them.
func (p *packets) finish(ctx context.Context) {
	p.r.streams.mu.Lock()
	began := p.began
	p.r.streams.mu.Unlock()
	if began {
		select {
		case <-p.ended:
		case <-time.After(packetsLimit):
		case <-ctx.Done():
		}
	}
	p.close()
}

// packetsLimit bounds the wait for the source's last packets once it was released.
const packetsLimit = 5 * time.Second

// close is idempotent.
func (p *packets) close() {
	if p.injector != nil {
		p.injector.Close()
	}
	if p.announcer != nil {
		p.announcer.Close()
	}
}
