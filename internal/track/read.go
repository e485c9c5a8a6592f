package track

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrGone means that a process has ended.
var ErrGone = errors.New("the process has ended")

// BatchSize is a good amount of memory to read at a time, in bytes: system calls cost nothing any more, and the buffer still
// fits a core's cache.
const BatchSize = 1 << 20

// maxRanges is how many pieces one process_vm_readv takes (UIO_MAXIOV).
const maxRanges = 1024

// NewBuffer makes a buffer whose pages are there already: reading a process's memory into untouched pages is ten times slower.
func NewBuffer(size int) []byte {
	b := make([]byte, size)
	for i := 0; i < size; i += PageSize {
		b[i] = 1
	}
	clear(b)
	return b
}

// Reader reads memory of one process, running or not. It has no state, so any number of workers may use the same one.
type Reader struct{ Pid int }

// Read fills buf with the ranges, one after the other; buf must have room for all of them. What could not be read, because it is
// not mapped any more or nobody may read it, is returned as failed, page by page and ascending as the ranges are; its place in buf holds
// zeros. The error is ErrGone when the process has ended.
func (r Reader) Read(ranges []Range, buf []byte) (failed []Range, err error) {
	if n := Bytes(ranges); n > uint64(len(buf)) {
		return nil, fmt.Errorf("read memory of process %d: %d bytes do not fit into %d", r.Pid, n, len(buf))
	}
	for len(ranges) > 0 {
		part := ranges[:min(len(ranges), maxRanges)]
		bad, err := r.read(part, buf)
		if err != nil {
			return nil, err
		}
		failed = append(failed, bad...)
		buf = buf[Bytes(part):]
		ranges = ranges[len(part):]
	}
	return failed, nil
}

// read reads at most maxRanges ranges.
func (r Reader) read(ranges []Range, buf []byte) (failed []Range, err error) {
	left := remotes(ranges)
	var mem *os.File // opened when it is needed, since it shows the memory that the process has at that time
	defer func() {
		if mem != nil {
			mem.Close()
		}
	}()
	for len(left) > 0 {
		n, err := r.vm(left, buf)
		if err != nil {
			return nil, err
		}
		// the kernel stops in the page that it cannot read; a part of a page that came before is read again
		n &^= PageSize - 1
		left, buf = skip(left, n), buf[n:]
		if len(left) == 0 {
			break
		}
		page := Range{uint64(left[0].Base), uint64(left[0].Base) + PageSize}
		if mem == nil {
			if mem, err = os.Open(fmt.Sprintf("/proc/%d/mem", r.Pid)); err != nil {
				return nil, gone(r.Pid, fmt.Errorf("open memory of process %d: %w", r.Pid, err))
			}
		}
		// this way leads into mappings without read permission too, which a program may make readable again
		if _, err := mem.ReadAt(buf[:PageSize], int64(page.Start)); err != nil {
			clear(buf[:PageSize])
			failed = add(failed, page)
		}
		left, buf = skip(left, PageSize), buf[PageSize:]
	}
	return failed, nil
}

// vm reads as much as it can in one system call and returns how many bytes that was.
func (r Reader) vm(remote []unix.RemoteIovec, buf []byte) (int, error) {
	var want int
	for _, v := range remote {
		want += v.Len
	}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(want)
	for {
		n, err := unix.ProcessVMReadv(r.Pid, local, remote, 0)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EFAULT):
			return 0, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ESRCH):
			return 0, ErrGone
		}
		return 0, fmt.Errorf("read memory of process %d: %w", r.Pid, err)
	}
}

func remotes(ranges []Range) []unix.RemoteIovec {
	out := make([]unix.RemoteIovec, 0, len(ranges))
	for _, r := range ranges {
		if r.Len() > 0 {
			out = append(out, unix.RemoteIovec{Base: uintptr(r.Start), Len: int(r.Len())})
		}
	}
	return out
}

// skip drops the first n bytes.
func skip(vs []unix.RemoteIovec, n int) []unix.RemoteIovec {
	for n > 0 && n >= vs[0].Len {
		n -= vs[0].Len
		vs = vs[1:]
	}
	if n > 0 {
		vs[0].Base += uintptr(n)
		vs[0].Len -= n
	}
	return vs
}

// gone returns ErrGone in place of err when the process has ended, or is about to: it has no memory any more.
func gone(pid int, err error) error {
	if s, e := readStat(pid); vanished(err) || e != nil || s.dead() {
		return ErrGone
	}
	return err
}
