package track

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queued is the signal that is sent with numbered values.
const queued = unix.Signal(40)

var (
	callErrors atomic.Int64
	ending     atomic.Bool
)

// usr1Blocked is the mask of all threads but those that are free to run its handler: most of the calls would rightly fail for it.
var usr1Blocked = unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGUSR1 - 1)}}

func complain(format string, a ...any) {
	if !ending.Load() {
		callErrors.Add(1)
		fmt.Fprintf(os.Stderr, "program: "+format+"\n", a...)
	}
}

// callsProgram has a thread in each of the calls that a stop could disturb, and complains about every result that it would not have had
// otherwise. It says the threads' numbers first; for each SIGUSR1 it says "usr1", and when it is told how many signals were queued, how
// much was wrong.
func callsProgram() {
	calls := []func(){
		forEver("epoll_wait", epollWait(-1)),
		forEver("epoll_pwait", epollPwait),
		forEver("poll", func() error { return second(unix.Poll(pipeFds(), -1)) }),
		forEver("ppoll", ppoll),
		forEver("select", func() error { return second(unix.Select(0, nil, nil, nil, nil)) }),
		forEver("read", func() error {
			return second(unix.Read(int(pipeFds()[0].Fd), make([]byte, 1)))
		}),
		timed("epoll_wait", nil, epollWait(20)),
		timed("nanosleep", nil, func() error { return unix.Nanosleep(&unix.Timespec{Nsec: 20e6}, nil) }),
		timed("futex", unix.ETIMEDOUT, futex),
		timed("recv", unix.EAGAIN, receiver()),
		takeSignals,
		compute,
	}
	var tids sync.Map
	var wg sync.WaitGroup
	for _, f := range calls {
		wg.Add(1)
		go func() {
			runtime.LockOSThread()
			must(0, unix.PthreadSigmask(unix.SIG_BLOCK, &usr1Blocked, nil))
			tids.Store(unix.Gettid(), true)
			wg.Done()
			f()
		}()
	}
	wg.Wait()
	usr1 := make(chan os.Signal, 16)
	signal.Notify(usr1, unix.SIGUSR1)
	fmt.Println("ready")
	fmt.Print(<-takerTid)
	tids.Range(func(tid, _ any) bool { fmt.Print(" ", tid); return true })
	fmt.Println()
	go func() {
		for range usr1 {
			fmt.Println("usr1")
		}
	}()
	var sent int64
	_ = must(fmt.Fscanln(os.Stdin, &sent))
	for end := time.Now().Add(20 * time.Second); taken.Load() < sent && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	ending.Store(true)
	fmt.Println("errors", callErrors.Load(), "signals", taken.Load())
}

func second[T any](_ T, err error) error { return err }

func pipeFds() []unix.PollFd {
	var p [2]int
	must(0, unix.Pipe2(p[:], unix.O_CLOEXEC))
	return []unix.PollFd{{Fd: int32(p[0]), Events: unix.POLLIN}}
}

// forEver is a call that must not come back.
func forEver(name string, call func() error) func() {
	return func() {
		complain("%s came back: %v", name, call())
		select {}
	}
}

// timed is a call that takes 20 ms or more and ends in the same way always.
func timed(name string, want error, call func() error) func() {
	return func() {
		for !ending.Load() {
			begin := time.Now()
			err := call()
			if took := time.Since(begin); err != want || took < 20*time.Millisecond {
				complain("%s: %v after %v", name, err, took)
			}
		}
	}
}

func newEpoll() int {
	ep := must(unix.EpollCreate1(unix.EPOLL_CLOEXEC))
	fd := pipeFds()[0].Fd
	must(0, unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: fd}))
	return ep
}

func epollWait(ms int) func() error {
	ep := newEpoll()
	return func() error { return second(unix.EpollWait(ep, make([]unix.EpollEvent, 1), ms)) }
}

func ppoll() error {
	fds, mask := pipeFds(), usr1Blocked
	_, _, errno := unix.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds[0])), 1, 0, uintptr(unsafe.Pointer(&mask)), 8, 0)
	return errno
}

func epollPwait() error {
	var ev [1]unix.EpollEvent
	mask := usr1Blocked
	_, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(newEpoll()), uintptr(unsafe.Pointer(&ev)), 1, ^uintptr(0),
		uintptr(unsafe.Pointer(&mask)), 8)
	return errno
}

func futex() error {
	var word uint32
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&word)), 0, 0,
		uintptr(unsafe.Pointer(&unix.Timespec{Nsec: 20e6})), 0, 0)
	return errno
}

// receiver receives with a time limit on the socket, which makes the call one that a stop ends.
func receiver() func() error {
	pair := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	must(0, unix.SetsockoptTimeval(pair[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 25e3}))
	return func() error {
		_, _, err := unix.Recvfrom(pair[0], make([]byte, 1), 0)
		return err
	}
}

var (
	takerTid = make(chan int, 1)
	taken    atomic.Int64
)

// takeSignals waits for queued signals, which must come in order, with their values.
func takeSignals() {
	set := unix.Sigset_t{Val: [16]uint64{1 << (queued - 1)}}
	must(0, unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil))
	takerTid <- unix.Gettid()
	for {
		var info [16]uint64
		_, _, errno := unix.Syscall6(unix.SYS_RT_SIGTIMEDWAIT, uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&info)), 0, 8, 0, 0)
		if errno != 0 {
			complain("sigwaitinfo: %v", errno)
			continue
		}
		if n := int64(info[3]); n != taken.Load() {
			complain("signal %d came as number %d", n, taken.Load())
		}
		taken.Add(1)
	}
}

// queue sends a signal with a value to a thread.
func queue(pid, tid int, value uint64) error {
	minusOne := int32(-1) // SI_QUEUE
	info := [16]uint64{uint64(queued), uint64(uint32(minusOne)), 0, value}
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_TGSIGQUEUEINFO, uintptr(pid), uintptr(tid), uintptr(queued), uintptr(unsafe.Pointer(&info)), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// compute never waits, and uses all kinds of registers.
func compute() {
	data := make([]byte, 10000)
	want := sha256.Sum256(data)
	for !ending.Load() {
		x := 1.0
		for i := range 1000 {
			x = x*1.5 + float64(i)
			x /= 1.5
		}
		if x < 300000 || x > 600000 {
			complain("computed %v", x)
		}
		if sha256.Sum256(data) != want {
			complain("computed another hash")
		}
		time.Sleep(50 * time.Microsecond)
	}
}
