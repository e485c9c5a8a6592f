package track

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/thread"
	"migrate/internal/uffd"
)

// canInject says why a userfaultfd cannot be put into processes.
func canInject() error { return nil }

// oldCalls are system calls that only old architectures have.
var oldCalls = []int{unix.SYS_EPOLL_WAIT}

const (
	// stopLimit is how long a thread may take until it has stopped. It is generous, for hosts without an idle processor.
	stopLimit = 2 * time.Second

	// callLimit is how long the injected calls may take on top of that. Afterwards the caller goes on, and whoever holds the thread
	// puts it right as soon as the kernel allows.
	callLimit = 2 * time.Second

	attempts = 3

	userCS = 0x33 // the code segment of 64-bit programs

	// erestartNoHand is the kernel's note to itself that a system call is to be made again unless a signal handler runs, and fails with
	// EINTR if one does.
	erestartNoHand = 514
)

// syscallInsn is the instruction that makes a system call.
var syscallInsn = []byte{0x0f, 0x05}

// injectUserfaultfd makes a userfaultfd for the memory of a process and returns it as a descriptor of ours. stray is asked while the
// thread stands still which descriptors of the process are to be closed on the occasion; it may be nil.
func injectUserfaultfd(ctx context.Context, pid int, vdso Range, stray func() []int) (fd int, err error) {
	insn := findInsn(pid, vdso)
	for range attempts {
		var tid int
		if tid, err = pickThread(pid); err != nil {
			return -1, err
		}
		t := &tracee{pid: pid, tid: tid, insn: insn, stray: stray}
		if fd, err = t.inject(ctx); err == nil || !errors.Is(err, errCritical) {
			break
		}
	}
	if err != nil {
		return -1, gone(pid, fmt.Errorf("put a userfaultfd into process %d: %w", pid, err))
	}
	return fd, nil
}

// findInsn returns the address of a system call instruction in the vdso, or 0.
func findInsn(pid int, vdso Range) uint64 {
	if vdso.Len() == 0 || vdso.Len() > 1<<20 {
		return 0
	}
	b := make([]byte, vdso.Len())
	if failed, err := (Reader{pid}).Read([]Range{vdso}, b); err != nil || len(failed) > 0 {
		return 0
	}
	i := bytes.Index(b, syscallInsn)
	if i < 0 {
		return 0
	}
	return vdso.Start + uint64(i)
}

// tracee is a thread of a process for the short time that it works for us. All but inject runs on one thread.
type tracee struct {
	pid, tid int
	insn     uint64 // where a system call instruction is
	stray    func() []int
	halted   bool // it has stopped, and saved is what its registers were

	saved unix.PtraceRegs
	mask  uint64 // its blocked signals
}

// inject waits for the result at most as long as the limits say. Should it come later the descriptor is closed.
func (t *tracee) inject(ctx context.Context) (int, error) {
	type result struct {
		fd  int
		err error
	}
	results := make(chan result, 1)
	thread.Start(func() {
		fd, err := t.work()
		results <- result{fd, err}
	})
	limit := time.NewTimer(stopLimit + callLimit)
	defer limit.Stop()
	late := func(why error) (int, error) {
		go func() {
			if r := <-results; r.fd >= 0 {
				unix.Close(r.fd)
			}
		}()
		return -1, why
	}
	select {
	case r := <-results:
		return r.fd, r.err
	case <-ctx.Done():
		return late(ctx.Err())
	case <-limit.C:
		return late(fmt.Errorf("thread %d does not go on: is the container frozen?", t.tid))
	}
}

// work stops the thread, makes it create the descriptor, takes that over and lets the thread go.
func (t *tracee) work() (fd int, err error) {
	if err := t.seize(); err != nil {
		return -1, err
	}
	if err := t.stop(); err != nil {
		return -1, err // the end of this thread lets go
	}
	if err := t.examine(); err != nil {
		return -1, errors.Join(err, t.detach())
	}
	if err := t.blockSignals(); err != nil {
		return -1, errors.Join(err, t.detach())
	}
	fd, err = t.transfer()
	if err := errors.Join(err, t.putBack()); err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, err
	}
	return fd, nil
}

// transfer runs the calls.
func (t *tracee) transfer() (int, error) {
	theirs, err := t.call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffd.UserModeOnly)
	if err != nil {
		return -1, fmt.Errorf("userfaultfd in thread %d: %w", t.tid, err)
	}
	fd, err := t.fetch(theirs)
	_, closeErr := t.call(unix.SYS_CLOSE, uint64(theirs))
	if t.stray != nil {
		for _, s := range t.stray() {
			_, e := t.call(unix.SYS_CLOSE, uint64(s))
			closeErr = errors.Join(closeErr, e)
		}
	}
	if closeErr != nil {
		err = errors.Join(err, fmt.Errorf("close descriptor in thread %d: %w", t.tid, closeErr))
	}
	return fd, err
}

// fetch copies a descriptor of the thread to us. Threads may have descriptors of their own, so it is the thread that is asked, and
// what it gave is looked at.
func (t *tracee) fetch(theirs int) (int, error) {
	pidfd, err := unix.PidfdOpen(t.tid, unix.PIDFD_THREAD)
	if errors.Is(err, unix.EINVAL) {
		pidfd, err = unix.PidfdOpen(t.pid, 0) // before Linux 6.9
	}
	if err != nil {
		return -1, fmt.Errorf("open pidfd of thread %d: %w", t.tid, err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
	if err != nil {
		return -1, fmt.Errorf("take descriptor %d of thread %d: %w", theirs, t.tid, err)
	}
	if to, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err != nil || to != userfaultfdLink {
		unix.Close(fd)
		return -1, fmt.Errorf("take descriptor %d of thread %d: it is %q", theirs, t.tid, to)
	}
	return fd, nil
}
