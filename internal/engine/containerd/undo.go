package containerd

import (
	"context"
	"sync"

	"migrate/internal/engine"
)

// once makes an undo run until it succeeds, and then no more.
func once(f func(ctx context.Context) error) engine.Undo {
	var mu sync.Mutex
	done := false
	return func(ctx context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return nil
		}
		err := f(ctx)
		done = err == nil
		return err
	}
}

// nothing is the undo of a step that changed nothing.
func nothing(context.Context) error { return nil }
