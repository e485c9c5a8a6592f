package feature

import (
	"encoding/binary"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// epoll waits for an eventfd, a timerfd and a signalfd at once. The first and the last are ready before it waits: what they
// hold was left by the step before.
type epoll struct {
	fd, event, timer, signal int
	bound                    bound
}

func newEpoll(Options) (m machine, err error) {
	e := &epoll{bound: bound{since: time.Now()}}
	if err := setOf(sigQueued).block(); err != nil {
		return nil, err
	}
	if e.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	if e.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return nil, err
	}
	if e.timer, err = periodicTimerfd(); err != nil {
		return nil, err
	}
	set := unix.Sigset_t{Val: [16]uint64{uint64(setOf(sigQueued))}}
	if e.signal, err = unix.Signalfd(-1, &set, unix.SFD_CLOEXEC); err != nil {
		return nil, err
	}
	for _, fd := range []int{e.event, e.timer, e.signal} {
		if err := unix.EpollCtl(e.fd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return nil, err
		}
	}
	return e, e.leave(1)
}

// leave puts what step n is to find.
func (e *epoll) leave(n uint64) error {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], n)
	if _, err := unix.Write(e.event, b[:]); err != nil {
		return err
	}
	info := siginfo{Signo: sigQueued, Code: codeQueue, First: int32(os.Getpid()), Value: n}
	_, _, no := unix.Syscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(os.Getpid()), uintptr(unix.Gettid()), sigQueued, uintptr(unsafe.Pointer(&info)), 0, 0)
	if no != 0 {
		return os.NewSyscallError("rt_tgsigqueueinfo", no)
	}
	return nil
}

func (e *epoll) step(n uint64) error {
	for waiting := map[int]bool{e.event: true, e.timer: true, e.signal: true}; len(waiting) > 0; {
		var events [4]unix.EpollEvent
		var count int
		err := retry(func() (err error) { count, err = unix.EpollWait(e.fd, events[:], -1); return err })
		if err != nil {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, event := range events[:count] {
			fd := int(event.Fd)
			if err := e.take(fd, n, waiting[fd]); err != nil {
				return err
			}
			delete(waiting, fd)
		}
	}
	return e.leave(n + 1)
}

// take takes what a descriptor holds. The timer may be ready more than once.
func (e *epoll) take(fd int, n uint64, first bool) error {
	switch {
	case fd == e.timer:
		count, err := readCounter(fd)
		if err != nil {
			return err
		}
		return e.bound.add(count)
	case !first:
		return damage("descriptor %d is ready twice", fd)
	case fd == e.event:
		if got, err := readCounter(fd); err != nil || got != n {
			return damage("the eventfd holds %d, %v", got, err)
		}
		return nil
	}
	var info unix.SignalfdSiginfo
	if err := retry(func() error {
		_, err := unix.Read(fd, unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
		return err
	}); err != nil {
		return os.NewSyscallError("read", err)
	}
	if info.Signo != sigQueued || info.Ptr != n {
		return damage("the signalfd has signal %d with value %d", info.Signo, info.Ptr)
	}
	return nil
}
