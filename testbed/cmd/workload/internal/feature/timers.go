package feature

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// retry repeats what a signal interrupts. The runtime sends threads signals of its own, and so does what migrates them.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// period is that of all timers.
const period = 20 * time.Millisecond

// bound checks that no timer has expired more often than time has passed: one that was set anew would.
type bound struct {
	since time.Time
	count uint64
}

func (b *bound) add(n uint64) error {
	b.count += n
	if most := uint64(time.Since(b.since)/period) + 1; b.count > most {
		return damage("%d expirations in a time that allows %d", b.count, most)
	}
	return nil
}

type timerfd struct {
	periodic, absolute int
	bound              bound
}

func newTimerfd(Options) (machine, error) {
	t := &timerfd{bound: bound{since: time.Now()}}
	var err error
	if t.periodic, err = periodicTimerfd(); err != nil {
		return nil, err
	}
	if t.absolute, err = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC); err != nil {
		return nil, err
	}
	return t, t.arm()
}

func periodicTimerfd() (int, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	every := unix.NsecToTimespec(period.Nanoseconds())
	return fd, unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
}

// arm sets the absolute timer to a time that is near, so that it may pass while nothing runs.
func (t *timerfd) arm() error {
	at := unix.NsecToTimespec(time.Now().Add(period).UnixNano())
	return unix.TimerfdSettime(t.absolute, unix.TFD_TIMER_ABSTIME, &unix.ItimerSpec{Value: at}, nil)
}

func (t *timerfd) step(uint64) error {
	var set unix.ItimerSpec
	if err := unix.TimerfdGettime(t.periodic, &set); err != nil {
		return err
	}
	if set.Interval.Nano() != period.Nanoseconds() {
		return damage("the timer's period is %d ns", set.Interval.Nano())
	}
	n, err := readCounter(t.periodic)
	if err != nil {
		return err
	}
	if err := t.bound.add(n); err != nil {
		return err
	}
	if n, err = readCounter(t.absolute); err != nil {
		return err
	}
	if n != 1 {
		return damage("a timer that was set once expired %d times", n)
	}
	return t.arm()
}

// readCounter reads a timerfd or an eventfd.
func readCounter(fd int) (uint64, error) {
	var b [8]byte
	err := retry(func() error { _, err := unix.Read(fd, b[:]); return err })
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

// Signals of our own. The runtime leaves them alone, and they are pending for a thread until it takes them.
const (
	sigTimer  = 40
	sigQueued = 41
)

// sigset is a set of signals with numbers up to 64.
type sigset uint64

func setOf(signal int) sigset { return 1 << (signal - 1) }

func (s sigset) block() error {
	set := unix.Sigset_t{Val: [16]uint64{uint64(s)}}
	return unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

// A siginfo is the kernel's siginfo_t as timers and queued signals fill it, on machines of 64 bits.
type siginfo struct {
	Signo, Errno, Code, _ int32
	First, Second         int32 // timer: its id and overruns; queued: sender's pid and uid
	Value                 uint64
	_                     [96]byte
}

const (
	codeQueue = -1 // SI_QUEUE
	codeTimer = -2 // SI_TIMER
)

// wait takes a pending signal of the set.
func (s sigset) wait() (info siginfo, err error) {
	err = retry(func() error {
		_, _, no := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&s)), uintptr(unsafe.Pointer(&info)), 0, unsafe.Sizeof(s), 0, 0)
		if no != 0 {
			return no
		}
		return nil
	})
	return info, os.NewSyscallError("rt_sigtimedwait", err)
}

// A sigevent is the kernel's struct of that name, for SIGEV_THREAD_ID.
type sigevent struct {
	Value         uint64
	Signo, Notify int32
	Thread        int32
	_             [44]byte
}

const notifyThread = 4 // SIGEV_THREAD_ID

type posixTimer struct {
	id    int32
	set   sigset
	bound bound
}

const timerValue = 0x7469_6d65_7221

func newPosixTimer(Options) (machine, error) {
	t := &posixTimer{set: setOf(sigTimer)}
	if err := t.set.block(); err != nil {
		return nil, err
	}
	event := sigevent{Value: timerValue, Signo: sigTimer, Notify: notifyThread, Thread: int32(unix.Gettid())}
	if _, _, no := unix.Syscall(unix.SYS_TIMER_CREATE, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&event)), uintptr(unsafe.Pointer(&t.id))); no != 0 {
		return nil, os.NewSyscallError("timer_create", no)
	}
	every := unix.NsecToTimespec(period.Nanoseconds())
	spec := unix.ItimerSpec{Interval: every, Value: every}
	t.bound.since = time.Now()
	if _, _, no := unix.Syscall6(unix.SYS_TIMER_SETTIME, uintptr(t.id), 0, uintptr(unsafe.Pointer(&spec)), 0, 0, 0); no != 0 {
		return nil, os.NewSyscallError("timer_settime", no)
	}
	return t, nil
}

func (t *posixTimer) step(uint64) error {
	info, err := t.set.wait()
	if err != nil {
		return err
	}
	if info.Code != codeTimer || info.Value != timerValue || info.First != t.id {
		return damage("the timer's signal is %+v", info)
	}
	var spec unix.ItimerSpec
	if _, _, no := unix.Syscall(unix.SYS_TIMER_GETTIME, uintptr(t.id), uintptr(unsafe.Pointer(&spec)), 0); no != 0 {
		return fmt.Errorf("timer_gettime: %w", no)
	}
	if spec.Interval.Nano() != period.Nanoseconds() {
		return damage("the timer's period is %d ns", spec.Interval.Nano())
	}
	return t.bound.add(1 + uint64(info.Second))
}
