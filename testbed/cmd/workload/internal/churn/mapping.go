package churn

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const readWrite = unix.PROT_READ | unix.PROT_WRITE

// mapPages makes an anonymous private mapping at an address that the kernel chooses.
func mapPages(pages int) (unsafe.Pointer, error) { return mapWith(pages, readWrite, 0) }

// mapWith makes an anonymous mapping, private unless the flags say otherwise.
func mapWith(pages, prot, flags int) (unsafe.Pointer, error) {
	if flags&unix.MAP_SHARED == 0 {
		flags |= unix.MAP_PRIVATE
	}
	at, err := unix.MmapPtr(-1, 0, nil, bytesOf(pages), prot, flags|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map %d pages: %w", pages, err)
	}
	return at, nil
}

func bytesOf(pages int) uintptr { return uintptr(pages) * pageSize }

//go:nosplit
//go:norace
func pageAt(at unsafe.Pointer, i int) unsafe.Pointer { return unsafe.Add(at, i*pageSize) }

func unmap(at unsafe.Pointer, pages int) error {
	if err := unix.MunmapPtr(at, bytesOf(pages)); err != nil {
		return fmt.Errorf("unmap %d pages: %w", pages, err)
	}
	return nil
}

// asBytes is memory as system calls' wrappers want it.
func asBytes(at unsafe.Pointer, pages int) []byte {
	return unsafe.Slice((*byte)(at), pages*pageSize)
}

func advise(at unsafe.Pointer, pages, advice int) error {
	if err := unix.Madvise(asBytes(at, pages), advice); err != nil {
		return fmt.Errorf("advise %d on %d pages: %w", advice, pages, err)
	}
	return nil
}

func protect(at unsafe.Pointer, pages, prot int) error {
	if err := unix.Mprotect(asBytes(at, pages), prot); err != nil {
		return fmt.Errorf("protect %d pages: %w", pages, err)
	}
	return nil
}

// pagesIn is how many pages so many MiB are.
func pagesIn(mib int) int { return mib << 20 / pageSize }
