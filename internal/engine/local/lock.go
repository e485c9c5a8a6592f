package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"migrate/internal/engine"
)

// Lock takes a container for one migration with a file lock in dir, which the kernel releases when the process dies. what names
// the container in errors.
func Lock(ctx context.Context, dir, name, what string) (engine.Undo, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make lock directory: %w", err)
	}
	path := filepath.Join(dir, name)
	for {
		f, err := lockFile(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is being migrated already: wait for that migration or end it: %w", what, engine.ErrExists)
		} else if err != nil {
			return nil, fmt.Errorf("lock %s: %w", what, err)
		}
		if f != nil {
			return unlock(f, path), nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("lock %s: %w", what, ctx.Err())
		}
	}
}

// lockFile returns nil without an error when the file was removed by its last holder between open and lock.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	mine, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if there, err := os.Lstat(path); err != nil || !os.SameFile(mine, there) {
		f.Close()
		return nil, nil
	}
	return f, nil
}

func unlock(f *os.File, path string) engine.Undo {
	return Once(func(context.Context) error {
		err := os.Remove(path)
		return errors.Join(err, f.Close())
	})
}
