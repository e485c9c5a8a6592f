package feature

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the second process of the kinds that have one.
func TestMain(m *testing.M) {
	if len(os.Args) > 4 && os.Args[1] == "feature" && os.Args[2] == "--partner" {
		if err := RunPartner(os.Args[4], os.Args[5:], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A stopper ends a run after so many lines.
type stopper struct {
	lines int
	end   context.CancelFunc
	text  strings.Builder
}

func (s *stopper) Write(p []byte) (int, error) {
	if s.lines--; s.lines == 0 {
		s.end()
	}
	return s.text.Write(p)
}

func TestKinds(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out := &stopper{lines: 20, end: cancel}
			few := 8
			if k.name == "files" {
				few = filesEach + 2 // in two processes
			}
			err := Run(ctx, Options{Kind: k.name, Dir: t.TempDir(), Count: few, MiB: 1, Every: time.Millisecond, Out: out})
			if errors.Is(err, unix.EPERM) {
				t.Skip("SKIPPED: the kernel does not allow it here: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			if out.lines != 0 || !strings.HasPrefix(out.text.String(), "tick 1 ") {
				t.Errorf("%d lines are missing of\n%s", out.lines, &out.text)
			}
		})
	}
	if err := Run(t.Context(), Options{Kind: "none"}); err == nil {
		t.Error("an unknown kind runs")
	}
}

// TestDamageIsNoticed takes away, repeats or changes what a step has left for the next.
func TestDamageIsNoticed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, m machine){
		"epoll": func(t *testing.T, m machine) { must(t, m.(*epoll).leave(3)) },
		"scm": func(t *testing.T, m machine) {
			for _, pair := range m.(*scm).pairs {
				_, err := m.(*scm).get(pair[1])
				must(t, err)
				must(t, m.(*scm).put(pair[0], 1))
			}
		},
		"sysv":       func(t *testing.T, m machine) { must(t, m.(*sysV).post(7)) },
		"memfd":      func(_ *testing.T, m machine) { m.(*memfd).memory[0]++ },
		"deleted":    func(t *testing.T, m machine) { _, err := m.(*deleted).file.WriteAt([]byte("x"), chunk+5); must(t, err) },
		"files":      func(t *testing.T, m machine) { _, err := m.(*files).own.open[3].Seek(8, 1); must(t, err) },
		"processes":  func(t *testing.T, m machine) { must(t, m.(*chain).put(1)) },
		"timerfd":    func(_ *testing.T, m machine) { m.(*timerfd).bound.count += 1000 },
		"posixtimer": func(_ *testing.T, m machine) { m.(*posixTimer).bound.count += 1000 },
		"locks":      func(t *testing.T, m machine) { must(t, unix.Flock(int(m.(*locks).files[0].Fd()), unix.LOCK_UN)) },
		"family": func(t *testing.T, m machine) {
			_, err := unix.Wait4(m.(*family).zombies[0].pid, nil, 0, nil)
			must(t, err)
		},
		"inotify": func(t *testing.T, m machine) {
			must(t, os.WriteFile(m.(*inotify).dir+"/other", nil, 0o600))
		},
		"pty": func(t *testing.T, m machine) {
			must(t, unix.IoctlSetWinsize(int(m.(*pty).master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 1, Col: 1}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			// signals and locks are the thread's; it is not given back, since signals stay blocked
			runtime.LockOSThread()
			var m machine
			var err error
			for _, k := range kinds {
				if k.name == name {
					m, err = k.make(Options{Dir: t.TempDir(), Count: 8, MiB: 1})
				}
			}
			if m == nil || err != nil {
				t.Fatal(err)
			}
			must(t, m.step(1))
			spoil(t, m)
			err = nil
			const steps = 6
			for n := uint64(2); n < 2+steps && err == nil; n++ {
				err = m.step(n)
			}
			if !errors.Is(err, ErrDamage) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
