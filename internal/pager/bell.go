package pager

import (
	"sync"
	"time"
)

// bell wakes all who wait. Who wants to miss nothing takes the channel before looking whether there is something to do.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

func newBell() *bell { return &bell{ch: make(chan struct{})} }

func (b *bell) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ch
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.ch)
	b.ch = make(chan struct{})
}

// waitFor returns when ch is closed, or after limit if that is not zero.
func waitFor(ch <-chan struct{}, limit time.Duration) {
	if limit == 0 {
		<-ch
		return
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-ch:
	case <-t.C:
	}
}
