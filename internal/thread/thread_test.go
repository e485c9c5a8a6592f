package thread

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A function gets the main thread again and again if nothing is done about it, since the goroutine that waits has just left it.
func TestRunLeavesTheMainThreadAlone(t *testing.T) {
	for range 500 {
		if err := Run(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("runs on the main thread")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestThreadEnds(t *testing.T) {
	tid := 0
	if err := Run(func() error { tid = unix.Gettid(); return nil }); err != nil {
		t.Fatal(err)
	}
	task := filepath.Join("/proc/self/task", fmt.Sprint(tid))
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(task); errors.Is(err, os.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("thread %d is still there", tid)
		}
	}
}

func TestRunReturnsTheError(t *testing.T) {
	cause := errors.New("cause")
	if err := Run(func() error { return cause }); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	if err := Run(func() error { runtime.Goexit(); return nil }); !errors.Is(err, ErrNotReturned) {
		t.Errorf("got %v, want %v", err, ErrNotReturned)
	}
}
