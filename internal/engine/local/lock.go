package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/engine"
)

// lockPoll is how often a lock is asked for whose owner is dead.
const lockPoll = 50 * time.Millisecond

// Lock implements engine.Source's with a file lock in dir. It belongs to the open file, and so to every process that inherits that: the
// kernel releases it when the last one has ended. A lock that outlives the process that took it is that of a guard which is just
// letting the container of a dead agent run on: that is waited for. what names the container in errors.
func Lock(ctx context.Context, dir, name, what string) (held *os.File, unlock engine.Undo, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make lock directory: %w", err)
	}
	path := filepath.Join(dir, name)
	for {
		f, err := lockFile(path)
		switch {
		case f != nil:
			return f, release(f, path), nil
		case err == nil || errors.Is(err, unix.EWOULDBLOCK) && !owned(path):
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, nil, fmt.Errorf("%s is being migrated already: wait for that migration or end it: %w", what, engine.ErrExists)
		default:
			return nil, nil, fmt.Errorf("lock %s: %w", what, err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("lock %s: wait for what cleans up after a migration whose agent died: %w", what, context.Cause(ctx))
		}
	}
}

// lockFile returns nil without an error when the file was removed by its last holder between open and lock.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	mine, err := take(f, path)
	if err != nil || !mine {
		f.Close()
		return nil, err
	}
	return f, nil
}

// take locks the file and writes down whose it is.
func take(f *os.File, path string) (mine bool, err error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return false, err
	}
	locked, err := f.Stat()
	if err != nil {
		return false, err
	}
	if there, err := os.Lstat(path); err != nil || !os.SameFile(locked, there) {
		return false, nil
	}
	if err := f.Truncate(0); err != nil {
		return false, err
	}
	_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	return err == nil, err
}

// owned says whether the process that took the lock is there. A lock that was only just taken may not say whose it is yet: it
// counts as nobody's for so long.
func owned(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && pid > 0 && !errors.Is(unix.Kill(pid, 0), unix.ESRCH)
}

func release(f *os.File, path string) engine.Undo {
	return Once(func(context.Context) error {
		err := os.Remove(path)
		return errors.Join(err, f.Close())
	})
}
