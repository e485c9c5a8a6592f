// Package cache keeps what is slow to make, by key. An entry is a directory; it
// appears under its name only when complete, so that whoever finds it can use it.
package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	lockName   = "lock"
	tempPrefix = "unfinished-"
	lockPoll   = 100 * time.Millisecond
)

// A Cache is a directory of entries. Several processes may use it at once.
type Cache struct {
	Dir string
}

// Key derives the name of an entry from what it depends on.
func Key(kind string, inputs ...string) string {
	sum := sha256.New()
	for _, input := range inputs {
		// The length keeps ("ab","c") apart from ("a","bc").
		fmt.Fprintf(sum, "%d:", len(input))
		_, _ = io.WriteString(sum, input)
	}
	return kind + "-" + hex.EncodeToString(sum.Sum(nil))[:16]
}

// Entry returns the directory of an entry, and has build fill it first when it
// is missing. A build that fails, or is killed, leaves no entry.
func (c Cache) Entry(ctx context.Context, key string, build func(ctx context.Context, dir string) error) (string, error) {
	entry := filepath.Join(c.Dir, key)
	if exists(entry) {
		return entry, nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(entry) { // another process made it while this one waited
		return entry, nil
	}
	if err := c.removeUnfinished(); err != nil {
		return "", err
	}
	return entry, c.make(ctx, entry, build)
}

func (c Cache) make(ctx context.Context, entry string, build func(ctx context.Context, dir string) error) (err error) {
	temp, err := os.MkdirTemp(c.Dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("make a cache entry: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := os.Chmod(temp, 0o755); err != nil {
		return fmt.Errorf("make a cache entry: %w", err)
	}
	if err := build(ctx, temp); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.Rename(temp, entry)
}

// Clean removes all entries.
func (c Cache) Clean(ctx context.Context) error {
	if !exists(c.Dir) {
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.RemoveAll(c.Dir); err != nil {
		return fmt.Errorf("clean cache %s: %w", c.Dir, err)
	}
	return nil
}

// removeUnfinished removes what killed builders left. The lock must be held, so
// that no builder is at work.
func (c Cache) removeUnfinished() error {
	entries, err := os.ReadDir(c.Dir)
	if err != nil {
		return fmt.Errorf("read cache: %w", err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), tempPrefix) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.Dir, entry.Name())); err != nil {
			return fmt.Errorf("remove an unfinished cache entry: %w", err)
		}
	}
	return nil
}

// lock waits for the cache's lock, which the kernel gives up with its holder.
func (c Cache) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(c.Dir, lockName), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock cache %s: %w", c.Dir, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, fmt.Errorf("wait for another builder of cache %s: %w", c.Dir, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
