package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Kinds of memory that a server can hold.
const (
	kindPrivate = "private"
	kindShared  = "shared" // anonymous and shared
	kindMemfd   = "memfd"  // a file in memory, mapped shared
	kindSysV    = "sysv"   // a segment of System V shared memory
)

var memoryKinds = []string{kindPrivate, kindShared, kindMemfd, kindSysV}

const mapShared = unix.PROT_READ | unix.PROT_WRITE

// allocate returns so many bytes of a kind of memory, all zeros. They are never freed.
func allocate(kind string, size int) ([]byte, error) {
	if size == 0 {
		return nil, nil
	}
	var data []byte
	var err error
	switch kind {
	case kindPrivate:
		return make([]byte, size), nil
	case kindShared:
		data, err = unix.Mmap(-1, 0, size, mapShared, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	case kindMemfd:
		data, err = mapMemfd(size)
	case kindSysV:
		data, err = attachSegment(size)
	default:
		return nil, fmt.Errorf("memory of kind %q: there are %s", kind, strings.Join(memoryKinds, ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("get memory of kind %s: %w", kind, err)
	}
	return data, nil
}

func mapMemfd(size int) ([]byte, error) {
	fd, err := unix.MemfdCreate("workload", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		return nil, err
	}
	return unix.Mmap(fd, 0, size, mapShared, unix.MAP_SHARED)
}

// attachSegment makes a segment, which ends with the IPC namespace: CRIU dumps none that is marked for removal.
func attachSegment(size int) ([]byte, error) {
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, size, unix.IPC_CREAT|0o600)
	if err != nil {
		return nil, err
	}
	return unix.SysvShmAttach(id, 0, 0)
}
