package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const lockPoll = 20 * time.Millisecond

// lockDir makes a directory and waits for its lock, which the kernel gives up with
// its holder. A directory serves as its own lock, so that no file stays behind.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	for {
		f, err := openDir(dir)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && isStill(f, dir) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the other program that works on %s: %w", dir, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

func openDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w (a testbed needs root)", dir, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// isStill tells whether the locked directory is the one at that path: its former
// holder may have removed it.
func isStill(f *os.File, dir string) bool {
	locked, err := f.Stat()
	if err != nil {
		return false
	}
	current, err := os.Stat(dir)
	return err == nil && os.SameFile(locked, current)
}
