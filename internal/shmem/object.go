package shmem

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"migrate/internal/track"
)

// Object is a piece of shared memory. It is good as long as the Set that found it knows it.
type Object struct {
	ID      uint64
	Handle  Handle   // where it is open or mapped
	Windows []Window // through which it can be written, ascending by Offset and apart from each other; they need not cover it
	file    *os.File
}

// Handle names an object by a process that has it, in a way that holds for the restored process too.
type Handle struct {
	VPid int    `json:"vpid"`           // the process, by its innermost pid; 0: none has it
	Addr uint64 `json:"addr,omitempty"` // an address at which it is mapped; 0: it is open as FD
	FD   int    `json:"fd,omitempty"`
}

// Window is a part of an object that a process has mapped shared and writable.
type Window struct {
	VPid   int    `json:"vpid"`
	Addr   uint64 `json:"addr"`
	Offset uint64 `json:"offset"` // in the object
	Len    uint64 `json:"len"`    // bytes; all of these are multiples of the page size
}

// Space is the number under which package pages keeps the pages of an object: a negative one, since those of processes are positive.
func Space(id uint64) int32 { return -1 - int32(id&math.MaxInt32) }

// Data lists the pages that are there, in bytes from the object's beginning, and tells its size.
func (o *Object) Data() (list []track.Range, size uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(o.file.Fd()), &st); err != nil {
		return nil, 0, fmt.Errorf("look at shared memory %d: %w", o.ID, err)
	}
	at := int64(0)
	for at < st.Size {
		start, err := o.file.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // nothing but holes, or it has shrunk
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("look for data in shared memory %d: %w", o.ID, err)
		}
		end, err := o.file.Seek(start, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, 0, fmt.Errorf("look for holes in shared memory %d: %w", o.ID, err)
		}
		at = up(end)
		list = append(list, track.Range{Start: uint64(start) &^ (track.PageSize - 1), End: uint64(at)})
	}
	return list, uint64(st.Size), nil
}

func up(n int64) int64 { return (n + track.PageSize - 1) &^ (track.PageSize - 1) }

// ReadPages reads pages from off, which is a multiple of the page size as len(p) is, without making any that are not there. It returns how
// many bytes it got: less than len(p) only where the object ends, in whole pages. It may shrink meanwhile.
func (o *Object) ReadPages(p []byte, off uint64) (int, error) {
	n, err := o.file.ReadAt(p, int64(off))
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read shared memory %d: %w", o.ID, err)
	}
	tail := n % track.PageSize
	if tail == 0 {
		return n, nil
	}
	n -= tail
	if err := o.readLast(p[n:n+track.PageSize], off+uint64(n)); err != nil {
		clear(p[n+tail : n+track.PageSize])
	}
	return n + track.PageSize, nil
}

// readLast reads the page in which the object ends. Behind the end it may hold something for those who map it, which only a mapping shows;
// and since it may be cut off at any time, the mapping is not touched but read by a system call, which fails then.
func (o *Object) readLast(page []byte, off uint64) error {
	addr, err := unix.MmapPtr(int(o.file.Fd()), int64(off), nil, track.PageSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { _ = unix.MunmapPtr(addr, track.PageSize) }()
	local := []unix.Iovec{{Base: &page[0]}}
	local[0].SetLen(len(page))
	remote := []unix.RemoteIovec{{Base: uintptr(addr), Len: len(page)}}
	n, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	if err == nil && n != len(page) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Open opens an object as a process of this host has it, for reading. What is open or mapped there may be anything, and is refused unless it is
// a file. The caller closes it by Close.
func Open(pid int, id uint64, h Handle) (*Object, error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, h.FD)
	if h.Addr != 0 {
		m, err := mappingAt(pid, h.Addr)
		if err != nil {
			return nil, fmt.Errorf("open shared memory %d of process %d: %w", id, pid, err)
		}
		path = m.path(pid)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe would wait for a writer
	if err != nil {
		return nil, fmt.Errorf("open shared memory %d of process %d: %w", id, pid, err)
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("open shared memory %d of process %d: %s is no memory", id, pid, path)
	}
	return &Object{ID: id, Handle: h, file: f}, nil
}

// Close lets go of an object that is in no Set.
func (o *Object) Close() error { return o.file.Close() }
