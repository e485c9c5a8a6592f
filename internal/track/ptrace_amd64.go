package track

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptrace(req, tid int, addr, data uintptr) error {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(req), uintptr(tid), addr, data, 0, 0)
	switch errno {
	case 0:
		return nil
	case unix.ESRCH:
		return errDied
	}
	return errno
}

// errDied means that the thread ended, or is being killed.
var errDied = errors.New("the thread has ended")

// errCritical means that the thread must not be disturbed right now.
var errCritical = errors.New("it is in a restartable sequence")

// errStill means that the thread has not stopped in time.
var errStill = fmt.Errorf("%w: the thread does not stop", errBusy)

// seize begins to trace the thread, which goes on running.
func (t *tracee) seize() error {
	err := ptrace(unix.PTRACE_SEIZE, t.tid, 0, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_SUSPEND_SECCOMP)
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) {
		if seccompOf(t.tid) {
			return fmt.Errorf("%w: trace thread %d without its seccomp filter: %w", errStay, t.tid, err)
		}
		err = ptrace(unix.PTRACE_SEIZE, t.tid, 0, unix.PTRACE_O_TRACESYSGOOD)
	}
	if err != nil {
		return fmt.Errorf("trace thread %d: %w", t.tid, err)
	}
	return nil
}

// stop stops the thread at a place where the kernel is about to return to the program. A signal that was under way is delivered
// first, with all that came along, and the stop follows before the handler's first instruction.
func (t *tracee) stop() error {
	if err := t.interrupt(); err != nil {
		return err
	}
	return t.await(time.Now().Add(stopLimit))
}

// interrupt gives the order to stop.
func (t *tracee) interrupt() error {
	if err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0, 0); err != nil {
		return fmt.Errorf("interrupt thread %d: %w", t.tid, err)
	}
	return nil
}

// await waits until the order is obeyed.
func (t *tracee) await(deadline time.Time) error {
	for {
		s, err := t.wait(deadline)
		if err != nil {
			return fmt.Errorf("wait for thread %d: %w", t.tid, err)
		}
		if s.event() {
			return nil
		}
		// any stop uses the order to stop up, so it is given again
		if err := t.interrupt(); err != nil {
			return err
		}
		if err := ptrace(unix.PTRACE_CONT, t.tid, 0, uintptr(s.signal())); err != nil {
			return fmt.Errorf("deliver signal %d to thread %d: %w", s.signal(), t.tid, err)
		}
	}
}

// stopped is why a thread has stopped.
type stopped unix.WaitStatus

// event: by our order, or with the whole process by a stop signal.
func (s stopped) event() bool { return int(s)>>16 == unix.PTRACE_EVENT_STOP }

// syscall: on its way into or out of a system call.
func (s stopped) syscall() bool { return s.signal() == unix.SIGTRAP|0x80 }

// signal that the thread is about to receive, if it is none of the others.
func (s stopped) signal() unix.Signal { return unix.WaitStatus(s).StopSignal() }

// wait waits for the thread's next stop; a zero deadline is none.
func (t *tracee) wait(deadline time.Time) (stopped, error) {
	for i := 0; ; i++ {
		var ws unix.WaitStatus
		n, err := unix.Wait4(t.tid, &ws, unix.WALL|unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, errDied // ECHILD: another thread of the process has executed a program, say
		case n == t.tid && !ws.Stopped():
			return 0, errDied
		case n == t.tid:
			return stopped(ws), nil
		case !deadline.IsZero() && time.Now().After(deadline):
			return 0, errStill
		}
		rest(i)
	}
}

// rest lets the thread run before we look again: it mostly needs a few microseconds, so we begin with giving up the processor only.
func rest(i int) {
	const yields, longest = 200, time.Millisecond
	if i < yields {
		_, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		return
	}
	time.Sleep(min(longest, time.Duration(i-yields+1)*10*time.Microsecond))
}

// examine reads the registers, and tells whether the thread can be made to run a system call.
func (t *tracee) examine() error {
	if err := unix.PtraceGetRegs(t.tid, &t.saved); err != nil {
		return fmt.Errorf("read registers of thread %d: %w", t.tid, err)
	}
	if t.saved.Cs != userCS {
		return fmt.Errorf("%w: thread %d runs 32-bit code", errStay, t.tid)
	}
	if t.insn == 0 {
		if !t.inSyscall() || !t.readable(t.saved.Rip-2, syscallInsn) {
			return fmt.Errorf("%w: no vdso", errBusy)
		}
		t.insn = t.saved.Rip - 2
	}
	if t.inCriticalSection() {
		return fmt.Errorf("stop thread %d: %w", t.tid, errCritical)
	}
	// four words, the first is the mode
	var dispatch [4]uint64
	err := ptrace(unix.PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, t.tid, unsafe.Sizeof(dispatch), uintptr(unsafe.Pointer(&dispatch)))
	if err == nil && dispatch[0] != 0 {
		return fmt.Errorf("%w: thread %d dispatches its own system calls", errStay, t.tid)
	}
	return nil
}

// inSyscall tells whether the thread was in a system call as it stopped.
func (t *tracee) inSyscall() bool { return int64(t.saved.Orig_rax) >= 0 }

func (t *tracee) readable(addr uint64, want []byte) bool {
	got := make([]byte, len(want))
	n, err := unix.ProcessVMReadv(t.pid, []unix.Iovec{{Base: &got[0], Len: uint64(len(got))}},
		[]unix.RemoteIovec{{Base: uintptr(addr), Len: len(got)}}, 0)
	return err == nil && n == len(got) && string(got) == string(want)
}

// inCriticalSection tells whether the thread is inside a restartable sequence (struct rseq and rseq_cs, include/uapi/linux/rseq.h). No
// system call is made inside of one.
func (t *tracee) inCriticalSection() bool {
	if t.inSyscall() {
		return false
	}
	var conf [24]byte
	if ptrace(unix.PTRACE_GET_RSEQ_CONFIGURATION, t.tid, uintptr(len(conf)), uintptr(unsafe.Pointer(&conf))) != nil {
		return false
	}
	area := binary.NativeEndian.Uint64(conf[:])
	if area == 0 {
		return false
	}
	section, ok := t.words(area+8, 1)
	if !ok || section[0] == 0 {
		return false
	}
	cs, ok := t.words(section[0]+8, 2) // start, length
	return ok && t.saved.Rip-cs[0] < cs[1]
}

func (t *tracee) words(addr uint64, n int) ([]uint64, bool) {
	b := make([]byte, 8*n)
	got, err := unix.ProcessVMReadv(t.pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}},
		[]unix.RemoteIovec{{Base: uintptr(addr), Len: len(b)}}, 0)
	if err != nil || got != len(b) {
		return nil, false
	}
	w := make([]uint64, n)
	for i := range w {
		w[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return w, true
}

// blockSignals saves the mask of blocked signals and blocks all. During a call like ppoll the kernel hands out the mask that is to be
// restored after it, which is the one that we want to put back.
func (t *tracee) blockSignals() error {
	if err := ptrace(unix.PTRACE_GETSIGMASK, t.tid, unsafe.Sizeof(t.mask), uintptr(unsafe.Pointer(&t.mask))); err != nil {
		return fmt.Errorf("read signal mask of thread %d: %w", t.tid, err)
	}
	all := ^uint64(0)
	if err := ptrace(unix.PTRACE_SETSIGMASK, t.tid, unsafe.Sizeof(all), uintptr(unsafe.Pointer(&all))); err != nil {
		return fmt.Errorf("block signals of thread %d: %w", t.tid, err)
	}
	return nil
}

// call makes the thread, which is in an event stop, run a system call, and leaves it in the next one.
func (t *tracee) call(nr, arg uint64) (int, error) {
	regs := t.saved
	regs.Rip, regs.Rax, regs.Rdi, regs.Orig_rax = t.insn, nr, arg, ^uint64(0)
	if err := unix.PtraceSetRegs(t.tid, &regs); err != nil {
		return 0, fmt.Errorf("set registers: %w", err)
	}
	if err := t.enter(); err != nil {
		return 0, err
	}
	// the order to stop is given before the call runs, so that it is obeyed right after
	if err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0, 0); err != nil {
		return 0, err
	}
	if err := t.leave(); err != nil {
		return 0, err
	}
	if err := unix.PtraceGetRegs(t.tid, &regs); err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	if r := int64(regs.Rax); r < 0 {
		return 0, unix.Errno(-r)
	}
	return int(regs.Rax), nil
}

// enter lets the thread run until it makes its system call. If it does not get there in time, as in a frozen container, it is stopped
// where it is; where even that has to wait, we wait.
func (t *tracee) enter() error {
	deadline := time.Now().Add(stopLimit)
	late := false
	for sig := unix.Signal(0); ; {
		if err := ptrace(unix.PTRACE_SYSCALL, t.tid, 0, uintptr(sig)); err != nil {
			return err
		}
		s, err := t.wait(deadline)
		if errors.Is(err, errStill) {
			late = true
			if err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0, 0); err != nil {
				return err
			}
			s, err = t.wait(time.Time{})
		}
		switch {
		case err != nil:
			return err
		case s.syscall():
			return nil
		case s.event() && late:
			return errStill
		}
		if sig, err = s.pass(); err != nil {
			return err
		}
	}
}

// leave lets the thread finish its system call.
func (t *tracee) leave() error {
	for sig := unix.Signal(0); ; {
		if err := ptrace(unix.PTRACE_CONT, t.tid, 0, uintptr(sig)); err != nil {
			return err
		}
		s, err := t.wait(time.Time{})
		if err != nil {
			return err
		}
		if s.event() {
			return nil
		}
		if sig, err = s.pass(); err != nil {
			return err
		}
		if err := ptrace(unix.PTRACE_INTERRUPT, t.tid, 0, 0); err != nil {
			return err
		}
	}
}

// pass returns the signal to go on with. Only SIGSTOP cannot be blocked; anything else has its cause in what we make the thread do,
// and is not for the program.
func (s stopped) pass() (unix.Signal, error) {
	switch {
	case s.event():
		return 0, nil
	case s.signal() == unix.SIGSTOP:
		return unix.SIGSTOP, nil
	}
	return 0, fmt.Errorf("%w: signal %d during the call", errStay, s.signal())
}

// putBack gives the thread back what is its own and lets it go.
func (t *tracee) putBack() error {
	regs, _ := t.restarted()
	err := unix.PtraceSetRegs(t.tid, &regs)
	if errors.Is(err, unix.ESRCH) {
		return errDied
	}
	return errors.Join(err,
		ptrace(unix.PTRACE_SETSIGMASK, t.tid, unsafe.Sizeof(t.mask), uintptr(unsafe.Pointer(&t.mask))), t.detach())
}

// restarted returns the registers with which the thread goes on: a system call that the stop has ended is made again.
func (t *tracee) restarted() (regs unix.PtraceRegs, changed bool) {
	regs = t.saved
	if t.inSyscall() && int64(regs.Rax) == -int64(unix.EINTR) && endedByStop(int(regs.Orig_rax)) {
		regs.Rax, changed = ^uint64(erestartNoHand-1), true
	}
	return regs, changed
}

func (t *tracee) detach() error {
	if err := ptrace(unix.PTRACE_DETACH, t.tid, 0, 0); err != nil {
		return fmt.Errorf("let go of thread %d: %w", t.tid, err)
	}
	return nil
}
