package track

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapPages maps memory of our own, to try on it what the kernel can do. The Go heap would not do, since it is in use.
func mapPages(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n*PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

func unmapPages(b []byte) { _ = unix.Munmap(b) }

// rangeOf tells where memory of our own is.
func rangeOf(b []byte) Range {
	start := uint64(uintptr(unsafe.Pointer(&b[0])))
	return Range{start, start + uint64(len(b))}
}

func procPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }
