package local

import (
	"context"
	"sync"

	"migrate/internal/engine"
)

// Once makes an undo run until it succeeds, and then no more.
func Once(f func(ctx context.Context) error) engine.Undo {
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

// Nothing is the undo of a step that changed nothing.
func Nothing(context.Context) error { return nil }
