package uffd

import (
	"runtime"
	"unsafe"
)

// Category is a set of properties of a page.
type Category uint64

// The categories of PAGEMAP_SCAN.
const (
	WPAllowed Category = 1 << iota // its range is registered for write-protection in async mode
	Written                        // written since it was protected last, or never protected
	File                           // belongs to a file or to shared memory
	Present
	Swapped
	PFNZero // the kernel's zero page
	Huge
	SoftDirty
)

// Flags of a Scan.
const (
	protectMatching = 1 << 0
	checkWPAsync    = 1 << 1
)

// Region is a run of pages with the same categories, of those asked for.
type Region struct {
	Start, End uint64
	Cat        Category
}

// Query says which pages a scan is after: those whose categories, after flipping the Inverted ones, contain all of Mask and one
// of AnyOf (if that is not zero). Return is what each Region tells. Protect marks what matches as not written, atomically
// with reporting it. Unregistered allows ranges that are not registered for async write-protection.
type Query struct {
	Inverted, Mask, AnyOf, Return Category
	Protect                       bool
	Unregistered                  bool
}

const (
	ioctlScan  = 0xc0606610
	scanBuffer = 8192 // regions
)

// Scanner scans through an open /proc/PID/pagemap. Not safe for concurrent use.
type Scanner struct {
	fd  int
	buf []Region
}

// NewScanner scans through fd, an open /proc/PID/pagemap that stays the caller's. It stands for the memory that the process had
// when it was opened, also after an exec.
func NewScanner(fd int) *Scanner { return &Scanner{fd: fd, buf: make([]Region, scanBuffer)} }

// Use makes the next scans go through fd, so that one buffer serves many processes.
func (s *Scanner) Use(fd int) { s.fd = fd }

// Scan calls found for each region in [start, end), ascending. EPERM: some of it is not registered for async write-protection
// and the query does not allow that. A scan that protects and fails may have protected pages that it did not report.
func (s *Scanner) Scan(start, end uint64, q Query, found func(Region)) error {
	flags := uint64(checkWPAsync)
	if q.Unregistered {
		flags = 0
	}
	if q.Protect {
		flags |= protectMatching
	}
	for start < end {
		a := struct {
			size, flags, start, end, walkEnd, vec, vecLen, maxPages uint64
			inverted, mask, anyOf, ret                              Category
		}{
			size: uint64(12 * 8), flags: flags, start: start, end: end,
			vec: uint64(uintptr(unsafe.Pointer(&s.buf[0]))), vecLen: uint64(len(s.buf)),
			inverted: q.Inverted, mask: q.Mask, anyOf: q.AnyOf, ret: q.Return,
		}
		n, err := ioctl(s.fd, ioctlScan, unsafe.Pointer(&a))
		runtime.KeepAlive(s.buf)
		if err != nil {
			return err
		}
		for _, r := range s.buf[:n] {
			found(r)
		}
		// scans that only look may stop walking early and still be complete: only a full buffer says that there is more
		if n < len(s.buf) || a.walkEnd <= start {
			return nil
		}
		start = a.walkEnd
	}
	return nil
}
