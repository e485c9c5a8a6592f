package hold

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// onFirstThread is set for a child whose kind is to be opened on the thread whose state is the process's.
const onFirstThread = "HOLD_ON_FIRST_THREAD"

func init() {
	if os.Getenv(onFirstThread) != "" {
		runtime.LockOSThread()
	}
	kinds["uninterruptible"] = uninterruptible
	kinds["stuck"] = func(string) (Held, error) { return Held{FD: -1}, stuck() }
}

// uninterruptible is a child that waits in the kernel, as for a disk that does not answer.
func uninterruptible(dir string) (Held, error) {
	c := again("stuck", dir)
	c.Env = append(os.Environ(), onFirstThread+"=1")
	return child(c)
}

// stuck waits for a page of its own that nobody fills in (userfaultfd), in a call that lets only SIGKILL through.
func stuck() error {
	const page = 4096
	mem, err := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	at := uintptr(unsafe.Pointer(&mem[0]))
	fd, err := missing(at, page)
	if err != nil {
		return err
	}
	fmt.Println("stuck")
	var buf [1]byte
	_, err = unix.ProcessVMReadv(unix.Getpid(), []unix.Iovec{{Base: &buf[0], Len: 1}}, []unix.RemoteIovec{{Base: at, Len: 1}}, 0)
	return errors.Join(err, unix.Close(fd))
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
