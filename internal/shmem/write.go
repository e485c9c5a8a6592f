package shmem

import (
	"errors"
	"fmt"
	"io"
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
