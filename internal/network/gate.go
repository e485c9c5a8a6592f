package network

import (
	"errors"
	"fmt"
	"sync"
)

// ErrGateFull says that a Gate was given more than it may keep.
var ErrGateFull = errors.New("more frames than are kept")

// A Gate keeps frames that come before the container can take them, and hands them on when it is opened, and those that
// come later at once, all in their order. Its methods may be called concurrently.
type Gate struct {
	inject func([]Frame) (int, error)
	limit  int64

	mu     sync.Mutex
	frames []Frame
	held   int64 // what frames costs
	open   bool
}

// NewGate makes a Gate in front of an Injector's Inject that keeps at most limit bytes.
func NewGate(inject func([]Frame) (int, error), limit int64) *Gate {
	return &Gate{inject: inject, limit: limit}
}

// Put takes frames in and owns them then. While the gate is shut, those for which there is no room are left out, which the
// error says.
func (g *Gate) Put(frames []Frame) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open {
		_, err := g.inject(frames)
		return err
	}
	for i, f := range frames {
		if g.held+cost(f) > g.limit {
			return fmt.Errorf("%w: %d were left out", ErrGateFull, len(frames)-i)
		}
		g.held += cost(f)
		g.frames = append(g.frames, f)
	}
	return nil
}

// Open hands on what is kept and returns how many frames were injected. Afterwards Put keeps nothing any more.
func (g *Gate) Open() (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	frames := g.frames
	g.frames, g.held, g.open = nil, 0, true
	return g.inject(frames)
}
