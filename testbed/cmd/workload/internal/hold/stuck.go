package hold

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// uninterruptible has the process's first thread wait in the kernel, as for a disk that does not answer: for a page of its own that
// nobody fills in (userfaultfd), in a call that lets only SIGKILL through.
func uninterruptible(string) (Held, error) {
	const page = 4096
	mem, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return Held{}, err
	}
	at := uintptr(unsafe.Pointer(&mem[0]))
	fd, err := missing(at, page)
	if err != nil {
		return Held{}, err
	}
	onFirstThread(func() {
		var buf [1]byte
		local := unix.Iovec{Base: &buf[0], Len: 1}
		remote := unix.RemoteIovec{Base: at, Len: 1}
		_, _ = unix.ProcessVMReadv(unix.Getpid(), []unix.Iovec{local}, []unix.RemoteIovec{remote}, 0)
	})
	return Held{FD: -1, Keep: []any{mem, fd}}, nil
}

// missing has a userfaultfd asked for a page that is not there.
func missing(at, size uintptr) (int, error) {
	const api, register, modeMissing = 0xc018aa3f, 0xc020aa00, 1
	fd, err := call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)
	if err != nil {
		return -1, err
	}
	hello := [3]uint64{0xaa}
	if _, err := call(unix.SYS_IOCTL, uintptr(fd), api, uintptr(unsafe.Pointer(&hello))); err != nil {
		return -1, err
	}
	area := [4]uint64{uint64(at), uint64(size), modeMissing}
	_, err = call(unix.SYS_IOCTL, uintptr(fd), register, uintptr(unsafe.Pointer(&area)))
	return fd, err
}

// onFirstThread runs f on the thread whose state is the process's, and does not wait for it. The others it keeps until then.
func onFirstThread(f func()) {
	for first := false; !first; {
		is := make(chan bool)
		go func() {
			runtime.LockOSThread()
			mine := unix.Gettid() == unix.Getpid()
			is <- mine
			if mine {
				f()
			}
			select {}
		}()
		first = <-is
	}
}
