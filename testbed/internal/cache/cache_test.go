package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func fill(_ context.Context, dir string) error {
	return os.WriteFile(filepath.Join(dir, "content"), []byte("x"), 0o644)
}

func TestEntryIsBuiltOnce(t *testing.T) {
	var built atomic.Int32
	var users sync.WaitGroup
	dir := filepath.Join(t.TempDir(), "cache")
	for range 8 {
		users.Go(func() {
			entry, err := Cache{Dir: dir}.Entry(t.Context(), "k", func(ctx context.Context, dir string) error {
				built.Add(1)
				return fill(ctx, dir)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := os.Stat(filepath.Join(entry, "content")); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	if n := built.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	broken := errors.New("broken")
	_, err := c.Entry(t.Context(), "k", func(ctx context.Context, dir string) error {
		return errors.Join(fill(ctx, dir), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	assertOnly(t, c.Dir, lockName)
}

func TestKilledBuildIsRemoved(t *testing.T) {
	c := Cache{Dir: t.TempDir()}
	if err := os.Mkdir(filepath.Join(c.Dir, tempPrefix+"1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Entry(t.Context(), "k", fill); err != nil {
		t.Fatal(err)
	}
	assertOnly(t, c.Dir, "k", lockName)
}

func TestKey(t *testing.T) {
	if Key("k", "ab", "c") == Key("k", "a", "bc") {
		t.Error("the border between inputs does not count")
	}
}

func assertOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names) {
		t.Fatalf("%s has %v, want %v", dir, entries, names)
	}
	for i, entry := range entries {
		if entry.Name() != names[i] {
			t.Errorf("%s has %s, want %s", dir, entry.Name(), names[i])
		}
	}
}
