package uffd

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Features that a descriptor may be asked for with API.
const (
	FeatureEventFork     = 1 << 1
	FeatureEventRemap    = 1 << 2
	FeatureEventRemove   = 1 << 3
	FeatureEventUnmap    = 1 << 6
	FeatureWPUnpopulated = 1 << 13
	FeatureWPAsync       = 1 << 15
)

// UserModeOnly is the flag of userfaultfd(2) with which an unprivileged process gets a descriptor.
const UserModeOnly = 1

// Modes of Register.
const (
	ModeMissing = 1 << 0
	ModeWP      = 1 << 1
)

const (
	ioctlAPI        = 0xc018aa3f
	ioctlRegister   = 0xc020aa00
	ioctlUnregister = 0x8010aa01
	ioctlWake       = 0x8010aa02
	ioctlCopy       = 0xc028aa03
	ioctlZeropage   = 0xc020aa04
	ioctlProtect    = 0xc018aa06

	apiVersion = 0xaa
)

func ioctl(fd int, req uintptr, arg unsafe.Pointer) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
	if errno != 0 {
		return int(n), errno
	}
	return int(n), nil
}

// API shakes hands on a new descriptor. It fails with EINVAL when the kernel lacks a feature.
func API(fd int, features uint64) error {
	a := [3]uint64{apiVersion, features, 0}
	_, err := ioctl(fd, ioctlAPI, unsafe.Pointer(&a))
	return err
}

// Register puts [start, end) of the descriptor's process under its watch. EBUSY: another descriptor has it; EINVAL: some of
// it cannot be watched, or is not mapped; ESRCH: the process, or the memory it had, is gone.
func Register(fd int, start, end uint64, mode uint64) error {
	a := [4]uint64{start, end - start, mode, 0}
	_, err := ioctl(fd, ioctlRegister, unsafe.Pointer(&a))
	return err
}

// Unregister takes [start, end) out again; write-protect marks in it are removed.
func Unregister(fd int, start, end uint64) error {
	a := [2]uint64{start, end - start}
	_, err := ioctl(fd, ioctlUnregister, unsafe.Pointer(&a))
	return err
}

// Unprotect takes the write-protect marks off all pages of [start, end), which has to be registered for ModeWP.
func Unprotect(fd int, start, end uint64) error {
	a := [3]uint64{start, end - start, 0}
	_, err := ioctl(fd, ioctlProtect, unsafe.Pointer(&a))
	return err
}

// Wake lets tasks that wait for a page in [start, start+n) look again.
func Wake(fd int, start, n uint64) error {
	a := [2]uint64{start, n}
	_, err := ioctl(fd, ioctlWake, unsafe.Pointer(&a))
	return err
}

// Copy fills missing pages at dst with p and wakes who waits for them. It returns how many bytes were filled, which may be fewer
// than asked for together with an error: EEXIST, the next page is there already; ENOENT, it is not mapped or not watched (any
// more); EAGAIN, the address space is changing and events wait to be read; ESRCH, the process is gone.
func Copy(fd int, dst uint64, p []byte) (int, error) {
	a := struct {
		dst, src, n, mode uint64
		copied            int64
	}{dst: dst, src: uint64(uintptr(unsafe.Pointer(&p[0]))), n: uint64(len(p))}
	_, err := ioctl(fd, ioctlCopy, unsafe.Pointer(&a))
	runtime.KeepAlive(p)
	return done(a.copied, len(p), err)
}

// Zero is Copy with zeros.
func Zero(fd int, dst uint64, n int) (int, error) {
	a := struct {
		start, n, mode uint64
		zeroed         int64
	}{start: dst, n: uint64(n)}
	_, err := ioctl(fd, ioctlZeropage, unsafe.Pointer(&a))
	return done(a.zeroed, n, err)
}

// done reads the result field of Copy and Zero: bytes, or a negative errno when nothing was done.
func done(res int64, want int, err error) (int, error) {
	if err == nil {
		return want, nil
	}
	if res > 0 {
		return int(res), err
	}
	return 0, err
}

// EventKind says what an Event is.
type EventKind uint8

// The kinds of events.
const (
	EventFault  EventKind = 0x12
	EventFork   EventKind = 0x13
	EventRemap  EventKind = 0x14
	EventRemove EventKind = 0x15
	EventUnmap  EventKind = 0x16
)

// Event is one message of a descriptor. Who causes one waits until it has been read, or, for a fault, until the page is there.
type Event struct {
	Kind  EventKind
	Addr  uint64 // fault: the address; remap: where it was
	To    uint64 // remap: where it is now
	Len   uint64 // remap: bytes
	Start uint64 // remove, unmap
	End   uint64
	FD    int // fork: the child's descriptor, now owned by the reader
}

const eventSize = 32

// MaxEvents is how many events one ReadEvents delivers at most.
const MaxEvents = 64

// ReadEvents appends the events that wait to evs. EAGAIN: there are none.
func ReadEvents(fd int, evs []Event) ([]Event, error) {
	var buf [eventSize * MaxEvents]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return evs, err
	}
	for o := 0; o+eventSize <= n; o += eventSize {
		evs = append(evs, decode(buf[o:o+eventSize]))
	}
	return evs, nil
}

func decode(m []byte) Event {
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(m[8+8*i:]) }
	e := Event{Kind: EventKind(m[0])}
	switch e.Kind {
	case EventFault:
		e.Addr = word(1)
	case EventFork:
		e.FD = int(binary.NativeEndian.Uint32(m[8:]))
	case EventRemap:
		e.Addr, e.To, e.Len = word(0), word(1), word(2)
	case EventRemove, EventUnmap:
		e.Start, e.End = word(0), word(1)
	}
	return e
}

// Changing tells whether the process is changing its mappings, or an event of that kind has not been read, or its task has not
// gone on: the kernel refuses to fill pages then. EAGAIN is checked before the arguments (fs/userfaultfd.c), so that a copy of
// nothing shows it.
func Changing(fd int) bool {
	var a [5]uint64
	_, err := ioctl(fd, ioctlCopy, unsafe.Pointer(&a))
	return err == unix.EAGAIN
}
