package shmem

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/track"
)

func addressOf(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(&p[0]))) }

// Write puts bytes into a process's memory as if it had written them itself: pages that come into being are accounted to the process, and are
// huge where it asked for that. The process is on this host, and stands still.
func Write(pid int, addr uint64, p []byte) error {
	for len(p) > 0 {
		local := []unix.Iovec{{Base: &p[0]}}
		local[0].SetLen(len(p))
		n, err := unix.ProcessVMWritev(pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(p)}}, 0)
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("write memory of process %d at %#x: %w", pid, addr, err)
		}
		addr, p = addr+uint64(n), p[n:]
	}
	return nil
}

// File tells where a window of a process of this host leads: path is that of the object, and off where in it the window begins, in bytes. ok is
// false where the object cannot be written as a file: what is no memory, huge pages, whose file system knows no writing, and what is sealed.
func (s *Set) File(pid int, w Window) (path string, off uint64, ok bool, err error) {
	m, err := mappingAt(pid, w.Addr)
	if err != nil {
		return "", 0, false, fmt.Errorf("find shared memory of process %d: %w", pid, err)
	}
	if !m.shared || !m.writable || w.Addr+w.Len > m.end {
		return "", 0, false, fmt.Errorf("process %d cannot write %d bytes of shared memory at %#x", pid, w.Len, w.Addr)
	}
	if m.key.dev != s.plain {
		return "", 0, false, nil
	}
	f, err := os.OpenFile(m.path(pid), os.O_RDWR, 0)
	if err != nil {
		return "", 0, false, fmt.Errorf("open shared memory of process %d: %w", pid, err)
	}
	defer f.Close()
	const sealed = unix.F_SEAL_WRITE | unix.F_SEAL_FUTURE_WRITE
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err == nil && seals&sealed != 0 {
		return "", 0, false, nil
	}
	return m.path(pid), m.offset + w.Addr - m.start, true, nil
}

// Split tells the pages of an object that windows show from the others, all in bytes from the object's beginning. Neither windows nor pages
// overlap, and both ascend.
func Split(pages []track.Range, windows []Window, shown func(Window) error, hidden func(track.Range) error) error {
	for _, r := range pages {
		for len(windows) > 0 && windows[0].Offset+windows[0].Len <= r.Start {
			windows = windows[1:]
		}
		for _, w := range windows {
			start, end := max(r.Start, w.Offset), min(r.End, w.Offset+w.Len)
			if start >= end {
				break
			}
			if r.Start < start {
				if err := hidden(track.Range{Start: r.Start, End: start}); err != nil {
					return err
				}
			}
			if err := shown(Window{VPid: w.VPid, Addr: w.Addr + start - w.Offset, Offset: start, Len: end - start}); err != nil {
				return err
			}
			r.Start = end
		}
		if r.Start < r.End {
			if err := hidden(r); err != nil {
				return err
			}
		}
	}
	return nil
}
