package hold

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() {
	for name, open := range map[string]func() (int, error){
		"eventfd":       func() (int, error) { return unix.Eventfd(3, unix.EFD_CLOEXEC) },
		"epoll":         epoll,
		"timerfd":       func() (int, error) { return unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC) },
		"signalfd":      func() (int, error) { return unix.Signalfd(-1, &unix.Sigset_t{}, unix.SFD_CLOEXEC) },
		"io_uring":      ioUring,
		"userfaultfd":   func() (int, error) { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1) },
		"perf":          perf,
		"kvm":           virtualMachine,
		"bpf":           bpfMap,
		"pidfd":         func() (int, error) { return unix.PidfdOpen(os.Getpid(), 0) },
		"pidfd-thread":  func() (int, error) { return unix.PidfdOpen(unix.Gettid(), unix.O_EXCL) },
		"memfd":         memfd(0),
		"memfd-sealed":  memfd(unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW),
		"memfd-secret":  func() (int, error) { return call(unix.SYS_MEMFD_SECRET, 0) },
		"landlock":      landlock,
		"fscontext":     fsContext,
		"null":          func() (int, error) { return unix.Open("/dev/null", unix.O_RDWR, 0) },
		"urandom":       func() (int, error) { return unix.Open("/dev/urandom", unix.O_RDONLY, 0) },
		"pty":           func() (int, error) { return unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0) },
		"proc-dir":      func() (int, error) { return unix.Open("/proc/self", unix.O_RDONLY|unix.O_DIRECTORY, 0) },
		"ns":            func() (int, error) { return unix.Open("/proc/self/ns/net", unix.O_RDONLY, 0) },
		"mqueue":        mqueue,
		"pipe-packet":   func() (int, error) { return onePipe(unix.O_DIRECT) },
		"pipe":          func() (int, error) { return onePipe(0) },
		"aio":           aio,
		"inotify-proc":  watching("/proc"),
		"inotify-tmpfs": watching("/dev/shm"),
		"fanotify":      fanotify,
	} {
		kinds[name] = descriptor(open)
	}
	kinds["inotify"] = func(dir string) (Held, error) { return descriptor(watching(dir))(dir) }
	kinds["device"] = device
	kinds["tun"] = tun
	kinds["ghost"] = func(dir string) (Held, error) { return ghost(dir, 1<<20) }
	kinds["ghost-large"] = func(dir string) (Held, error) { return ghost(dir, 300<<20) }
	kinds["ghost-sparse"] = ghostSparse
	kinds["renamed"] = renamed
	kinds["removed-dir"] = removedDir
	kinds["flock"] = locked(func(fd int) error { return unix.Flock(fd, unix.LOCK_EX) })
	kinds["posix-lock"] = locked(func(fd int) error {
		return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10})
	})
	kinds["ofd-lock"] = locked(func(fd int) error {
		return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Len: 10})
	})
	kinds["lease"] = locked(func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
		return err
	})
	kinds["file"] = locked(func(int) error { return nil })
	kinds["fifo"] = fifo
	kinds["hidden"] = hidden
	kinds["ramfs"] = func(dir string) (Held, error) { return Held{FD: -1}, unix.Mount("held", dir, "ramfs", 0, "") }
	kinds["outside-file"] = func(dir string) (Held, error) { return opened(filepath.Join(dir, "away", "file")) }
}

func call(nr uintptr, args ...uintptr) (int, error) {
	var a [6]uintptr
	copy(a[:], args)
	fd, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

func epoll() (int, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, err
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return -1, err
	}
	return fd, unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, event, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(event)})
}

func ioUring() (int, error) {
	var params [120]byte
	return call(unix.SYS_IO_URING_SETUP, 8, uintptr(unsafe.Pointer(&params)))
}

func perf() (int, error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
	attr.Size = uint32(unsafe.Sizeof(attr))
	return unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
}

// virtualMachine is one without anything in it.
func virtualMachine() (int, error) {
	fd, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	const createVM = 0xae01
	return call(unix.SYS_IOCTL, uintptr(fd), createVM, 0)
}

// bpfMap makes a ring buffer, which is of no type that could be read out.
func bpfMap() (int, error) {
	attr := [18]uint32{27 /* BPF_MAP_TYPE_RINGBUF */, 0, 0, 4096}
	return call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
}

func memfd(seals int) func() (int, error) {
	return func() (int, error) {
		fd, err := unix.MemfdCreate("held", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
		if err != nil {
			return -1, err
		}
		if _, err := unix.Write(fd, []byte("held")); err != nil {
			return -1, err
		}
		if seals != 0 {
			_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals)
		}
		return fd, err
	}
}

func landlock() (int, error) {
	attr := uint64(1) // LANDLOCK_ACCESS_FS_EXECUTE
	return call(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), 8, 0)
}

func fsContext() (int, error) {
	name := [...]byte{'t', 'm', 'p', 'f', 's', 0}
	return call(unix.SYS_FSOPEN, uintptr(unsafe.Pointer(&name)), 0)
}

func mqueue() (int, error) {
	name := [...]byte{'h', 'e', 'l', 'd', 0}
	return call(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name)), unix.O_RDWR|unix.O_CREAT, 0o600, 0)
}

func onePipe(flags int) (int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|flags); err != nil {
		return -1, err
	}
	_, err := unix.Write(p[1], []byte("waiting"))
	return p[0], err
}

// aio is asynchronous input and output of the kernel's older kind: a mapping and no descriptor.
func aio() (int, error) {
	var ctx uintptr
	_, err := call(unix.SYS_IO_SETUP, 8, uintptr(unsafe.Pointer(&ctx)))
	return -1, err
}

func watching(path string) func() (int, error) {
	return func() (int, error) {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
		if err != nil {
			return -1, err
		}
		_, err = unix.InotifyAddWatch(fd, path, unix.IN_CREATE|unix.IN_DELETE)
		return fd, err
	}
}

func fanotify() (int, error) {
	return unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID|unix.FAN_CLOEXEC, unix.O_RDONLY)
}

// device makes the node of a character device that every container may use but that CRIU knows nothing of, and opens it.
func device(dir string) (Held, error) {
	path := filepath.Join(dir, "device")
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 229))); err != nil {
		return Held{}, err
	}
	return opened(path)
}

// tun opens /dev/net/tun without making an interface.
func tun(dir string) (Held, error) {
	path := filepath.Join(dir, "tun")
	if err := unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))); err != nil {
		return Held{}, err
	}
	return opened(path)
}

func opened(path string) (Held, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: f}, nil
}

// create makes a file of random bytes.
func create(path string, size int64) (*os.File, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block) // never fails (crypto/rand)
	for ; size > 0; size -= int64(len(block)) {
		if _, err := f.Write(block[:min(size, int64(len(block)))]); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// ghost is a file that is open and has no name any more.
func ghost(dir string, size int64) (Held, error) {
	f, err := create(filepath.Join(dir, "ghost"), size)
	if err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: f}, os.Remove(f.Name())
}

// ghostSparse is one that is long and holds little.
func ghostSparse(dir string) (Held, error) {
	f, err := create(filepath.Join(dir, "ghost"), 4096)
	if err != nil {
		return Held{}, err
	}
	if err := f.Truncate(300 << 20); err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: f}, os.Remove(f.Name())
}

// renamed is a file that lost its name and has another one.
func renamed(dir string) (Held, error) {
	f, err := create(filepath.Join(dir, "first"), 4096)
	if err != nil {
		return Held{}, err
	}
	if err := os.Link(f.Name(), filepath.Join(dir, "second")); err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: f}, os.Remove(f.Name())
}

func removedDir(dir string) (Held, error) {
	path := filepath.Join(dir, "removed")
	if err := os.Mkdir(path, 0o700); err != nil {
		return Held{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: f}, os.Remove(path)
}

func locked(lock func(fd int) error) kind {
	return func(dir string) (Held, error) {
		f, err := create(filepath.Join(dir, "locked"), 4096)
		if err != nil {
			return Held{}, err
		}
		return Held{FD: int(f.Fd()), Keep: f}, lock(int(f.Fd()))
	}
}

// hidden is a file on a file system over which another one was mounted.
func hidden(dir string) (Held, error) {
	if err := unix.Mount("below", dir, "tmpfs", 0, ""); err != nil {
		return Held{}, err
	}
	f, err := create(filepath.Join(dir, "hidden"), 1)
	if err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: f}, unix.Mount("above", dir, "tmpfs", 0, "")
}

func fifo(dir string) (Held, error) {
	path := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return Held{}, err
	}
	return opened(path)
}
