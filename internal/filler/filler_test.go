package filler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/track"
)

// TestMain is also the process that Start starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "filler" {
		os.Exit(Run(os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

func start(t *testing.T) *Filler {
	t.Helper()
	f, err := Start([]string{"/proc/self/exe", "filler"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.End)
	return f
}

// memory makes a memory file of so many pages and returns how the filler finds it.
func memory(t *testing.T, pages int) (*os.File, string) {
	t.Helper()
	fd, err := unix.MemfdCreate("filled", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "filled")
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(int64(pages) * track.PageSize); err != nil {
		t.Fatal(err)
	}
	return f, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
}

// store makes a page store of so many slots of noise, beside the first, which is a hole.
func store(t *testing.T, slots int) (path string, content []byte) {
	t.Helper()
	content = make([]byte, (slots+1)*track.PageSize)
	noise := rand.NewChaCha8([32]byte{1})
	_, _ = noise.Read(content[track.PageSize:]) // never fails
	path = filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, content
}

func read(t *testing.T, f *os.File, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFill(t *testing.T) {
	const slots = 500
	path, content := store(t, slots)
	a, aPath := memory(t, slots+10)
	b, bPath := memory(t, 2)
	f := start(t)
	if err := f.Join(t.Context(), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	err := f.Fill(t.Context(), Job{Store: path, Objects: []string{aPath, bPath}}, []Piece{
		{Object: 0, Slot: 1, Pages: 400, Last: 1, Off: 10 * track.PageSize},
		{Object: 0, Slot: 401, Pages: 100, Off: 410 * track.PageSize},
		{Object: 1, Slot: 401, Pages: 1, Off: track.PageSize},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := append(make([]byte, 10*track.PageSize), content[track.PageSize:]...)
	if !bytes.Equal(read(t, a, len(want)), want) {
		t.Error("the first object is not what the store had")
	}
	want = append(make([]byte, track.PageSize), content[401*track.PageSize:402*track.PageSize]...)
	if !bytes.Equal(read(t, b, len(want)), want) {
		t.Error("the second object is not what the store had")
	}
	left, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(content[:401*track.PageSize])
	if !bytes.Equal(left, content) {
		t.Error("the store does not have what others need, and nothing else")
	}
}

func TestFillFails(t *testing.T) {
	path, _ := store(t, 2)
	_, object := memory(t, 2)
	for name, c := range map[string]struct {
		job   Job
		piece Piece
		want  string
	}{
		"no store":       {Job{Store: path + ".gone", Objects: []string{object}}, Piece{Slot: 1, Pages: 1}, "open the page store"},
		"no object":      {Job{Store: path, Objects: []string{object + "0"}}, Piece{Slot: 1, Pages: 1}, "open shared memory"},
		"other object":   {Job{Store: path, Objects: []string{object}}, Piece{Object: 1, Slot: 1, Pages: 1}, "no such thing"},
		"slot 0":         {Job{Store: path, Objects: []string{object}}, Piece{Pages: 1}, "no such thing"},
		"beyond the end": {Job{Store: path, Objects: []string{object}}, Piece{Slot: 2, Pages: 3}, "read 3 slots from 2"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			if err := f.Join(t.Context(), os.Getpid()); err != nil {
				t.Fatal(err)
			}
			// many pieces: who gave up reads no further
			pieces := make([]Piece, 100_000)
			for i := range pieces {
				pieces[i] = c.piece
			}
			if err := f.Fill(t.Context(), c.job, pieces); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestFillGivenUp(t *testing.T) {
	f := start(t)
	if err := f.Join(t.Context(), os.Getpid()); err != nil {
		t.Fatal(err)
	}
	path, _ := store(t, 1)
	_, object := memory(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Fill(ctx, Job{Store: path, Objects: []string{object}}, []Piece{{Slot: 1, Pages: 1}}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
	f.End()
	f.End()
	if err := f.cmd.Process.Signal(unix.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("the process is left: %v", err)
	}
}
