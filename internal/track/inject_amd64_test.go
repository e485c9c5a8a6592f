package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

func vdsoOf(t *testing.T, pid int) Range {
	t.Helper()
	sp, err := new(mapReader).read(pid)
	if err != nil {
		t.Fatal(err)
	}
	return sp.vdso
}

// into injects into a certain thread.
func into(ctx context.Context, pid, tid int, vdso Range) error {
	tr := &tracee{pid: pid, tid: tid, insn: findInsn(pid, vdso)}
	fd, err := tr.inject(ctx)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

func TestNoCallNoticesTheInjection(t *testing.T) {
	undisturbed(t, func(c *child, tids []int) error {
		vdso := vdsoOf(t, c.pid())
		for range 100 {
			for _, tid := range tids {
				// in a system call without vdso as well
				for _, where := range []Range{vdso, {}} {
					if err := into(context.Background(), c.pid(), tid, where); err != nil && !errors.Is(err, errBusy) {
						return err
					}
				}
			}
		}
		if fds := userfaultfds(c.pid()); len(fds) > 0 {
			t.Errorf("descriptors %v stay", fds)
		}
		return nil
	})
}

// undisturbed does something to a program whose threads are in system calls of many kinds, and gets signals, and makes sure that it
// does not notice.
func undisturbed(t *testing.T, do func(c *child, tids []int) error) {
	t.Helper()
	c := start(t, "calls")
	var tids []int
	for _, f := range strings.Fields(c.line()) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		tids = append(tids, n)
	}
	taker := tids[0]
	tids = tids[1:]
	if len(tids) != 12 {
		t.Fatalf("threads %v", tids)
	}

	var wg sync.WaitGroup
	done := make(chan struct{})
	sent := uint64(0)
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := queue(c.pid(), taker, sent); err != nil {
				t.Errorf("signal %d: %v", sent, err)
				return
			}
			sent++
			if err := unix.Kill(c.pid(), unix.SIGUSR1); err != nil {
				t.Error(err)
			}
			if l := c.line(); l != "usr1" {
				t.Errorf("instead of the signal's effect: %q", l)
				return
			}
		}
	})
	err := do(c, tids)
	close(done)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	c.say(strconv.FormatUint(sent, 10))
	if l, want := c.line(), fmt.Sprintf("errors 0 signals %d", sent); l != want {
		t.Errorf("the program says %q, want %q", l, want)
	}
}

func TestAStoppedProcessStaysStopped(t *testing.T) {
	c := start(t, "idle")
	vdso := vdsoOf(t, c.pid())
	c.stop()
	for range 20 {
		if err := into(context.Background(), c.pid(), c.pid(), vdso); err != nil {
			t.Fatal(err)
		}
		awaitState(t, c.pid(), "T")
	}
	c.cont()
	awaitState(t, c.pid(), "SR")

	// stopped and continued in the middle of it
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				_ = unix.Kill(c.pid(), unix.SIGSTOP)
				_ = unix.Kill(c.pid(), unix.SIGCONT)
			}
		}
	})
	for range 200 {
		if err := into(context.Background(), c.pid(), c.pid(), vdso); err != nil {
			t.Error(err)
		}
	}
	close(done)
	wg.Wait()
	awaitState(t, c.pid(), "SR")
	c.stop()
	c.cont()
	awaitState(t, c.pid(), "SR")
	if n := len(userfaultfds(c.pid())); n > 0 {
		t.Errorf("%d descriptors stayed", n)
	}
}

func TestAProcessThatDiesMeanwhile(t *testing.T) {
	for i := range 10 {
		c := start(t, "idle")
		vdso := vdsoOf(t, c.pid())
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			for range i * 3 {
				_, _ = os.ReadFile(procPath(c.pid(), "maps"))
			}
			_ = unix.Kill(c.pid(), unix.SIGKILL)
		}()
		var err error
		for err == nil {
			_, err = injectUserfaultfd(context.Background(), c.pid(), vdso, nil)
		}
		<-killed
		if !errors.Is(err, ErrGone) && !errors.Is(err, errDied) && !errors.Is(err, errBusy) {
			t.Errorf("got %v", err)
		}
	}
}

// traceAll traces all threads of a process, as a debugger would, until the test ends.
func traceAll(t *testing.T, pid int) {
	t.Helper()
	traced, end := make(chan error), make(chan struct{})
	thread.Start(func() {
		var err error
		tasks, _ := os.ReadDir(procPath(pid, "task"))
		for _, e := range tasks {
			tid, _ := strconv.Atoi(e.Name())
			err = errors.Join(err, ptrace(unix.PTRACE_SEIZE, tid, 0, 0))
		}
		traced <- err
		<-end
	})
	t.Cleanup(func() { close(end) })
	if err := <-traced; err != nil {
		t.Fatal(err)
	}
}

func TestAProcessThatIsTracedIsHashed(t *testing.T) {
	c := start(t, "idle")
	traceAll(t, c.pid())
	tr := open(t, WP, c.pids)
	dest := copies{}
	if n := dest.apply(t, tr, scan(t, tr)); n == 0 {
		t.Error("nothing to copy")
	}
	dest.apply(t, tr, scan(t, tr))
	// it cannot be stopped by a signal that its tracer does not pass on; what is idle for long is as good for this
	if n := len(userfaultfds(c.pid())) + held(t, c.pid()); n > 0 {
		t.Errorf("%d traces of us in it", n)
	}
	procs := final(t, tr)
	if len(procs) != 1 || len(procs[0].Pages) == 0 {
		t.Errorf("nothing is clean: %+v", procs)
	}
}

func TestAnInheritedDescriptorIsClosed(t *testing.T) {
	a := start(t, "idle")
	pids := []int{a.pid()}
	tr := open(t, WP, func() ([]int, error) { return pids, nil })
	scan(t, tr)
	fd, err := unix.FcntlInt(uintptr(tr.(*tracker).get(a.pid()).method.(*wpMethod).fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "")
	b := startWith(t, "idle", []*os.File{f})
	f.Close()
	if n := len(userfaultfds(b.pid())); n != 1 {
		t.Fatalf("the second process has %d descriptors", n)
	}
	pids = append(pids, b.pid())
	scan(t, tr)
	if n := len(userfaultfds(b.pid())); n != 0 {
		t.Errorf("the second process still has %d descriptors", n)
	}
}
