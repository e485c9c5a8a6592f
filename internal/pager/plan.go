package pager

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/uffd"
)

const pageSize = uffd.PageSize

// Slots with a meaning of their own.
const (
	ZeroSlot   uint32 = 0          // a page of zeros
	RemoteSlot uint32 = 0xffffffff // a page that is not on this host yet
)

// Plan says where the content of every page is.
type Plan struct {
	Tasks []TaskPlan
	Hot   []Range // filled before everything else, in this order
}

// TaskPlan is one task's memory, by the pid that it has in its own namespace. What no extent covers reads as zeros.
type TaskPlan struct {
	VPID    int
	Extents []Extent // ascending, disjoint
}

// Extent is a run of pages whose content lies in as many slots from Slot on, or which are all zero, or all remote. A slot may be
// named several times.
type Extent struct {
	Addr  uint64 // bytes, a multiple of the page size
	Pages uint32
	Slot  uint32
}

// Range is a run of pages of one task.
type Range struct {
	VPID  int
	Addr  uint64
	Pages uint32
}

func (e Extent) end() uint64 { return e.Addr + uint64(e.Pages)*pageSize }

func (r Range) end() uint64 { return r.Addr + uint64(r.Pages)*pageSize }

// maxAddr is beyond any user address of today's machines, and small enough for ends to be computed without overflow.
const maxAddr = 1 << 57

func (e Extent) check() error {
	switch {
	case e.Addr%pageSize != 0 || e.Addr >= maxAddr || e.Pages == 0 || e.end() > maxAddr:
		return fmt.Errorf("extent %#x+%d pages is no range of pages", e.Addr, e.Pages)
	case e.Slot != ZeroSlot && e.Slot != RemoteSlot && uint64(e.Slot)+uint64(e.Pages) > uint64(RemoteSlot):
		return fmt.Errorf("extent %#x+%d pages: slots from %d on do not exist", e.Addr, e.Pages, e.Slot)
	}
	return nil
}

func (t TaskPlan) check() error {
	var end, pages uint64
	for _, e := range t.Extents {
		if err := e.check(); err != nil {
			return err
		}
		if e.Addr < end {
			return fmt.Errorf("extent %#x is out of order", e.Addr)
		}
		end = e.end()
		if e.Slot != ZeroSlot {
			pages += uint64(e.Pages)
		}
	}
	if pages > 1<<31 {
		return fmt.Errorf("%d pages are too many for one task", pages)
	}
	return nil
}

func (p *Plan) check() error {
	seen := map[int]bool{}
	for _, t := range p.Tasks {
		if t.VPID <= 0 || seen[t.VPID] {
			return fmt.Errorf("check plan: vpid %d is invalid or named twice", t.VPID)
		}
		seen[t.VPID] = true
		if err := t.check(); err != nil {
			return fmt.Errorf("check plan of vpid %d: %w", t.VPID, err)
		}
	}
	for _, r := range p.Hot {
		if err := (Extent{Addr: r.Addr, Pages: r.Pages}).check(); err != nil {
			return fmt.Errorf("check plan, hot ranges: %w", err)
		}
	}
	return nil
}

// The encoding, in host byte order since both ends are the same program on the same machine: the magic number, the number of
// tasks and of hot ranges; per task vpid, number of extents, extents as they lie in memory; the hot ranges as three words each.
const planMagic uint64 = 0x314e414c50474150

func (p *Plan) encode(out io.Writer) error {
	w := bufio.NewWriterSize(out, 1<<20)
	put := func(words ...uint64) {
		for _, v := range words {
			_, _ = w.Write(binary.NativeEndian.AppendUint64(w.AvailableBuffer(), v)) // Flush tells
		}
	}
	put(planMagic, uint64(len(p.Tasks)), uint64(len(p.Hot)))
	for _, t := range p.Tasks {
		put(uint64(t.VPID), uint64(len(t.Extents)))
		_, _ = w.Write(extentBytes(t.Extents))
	}
	for _, r := range p.Hot {
		put(uint64(r.VPID), r.Addr, uint64(r.Pages))
	}
	return w.Flush()
}

// extentBytes is the memory of es.
func extentBytes(es []Extent) []byte {
	if len(es) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&es[0])), len(es)*int(unsafe.Sizeof(es[0])))
}

// decodePlan reads a plan of at most size bytes and checks it.
func decodePlan(in io.Reader, size int64) (*Plan, error) {
	r := bufio.NewReaderSize(in, 1<<16)
	word := func() (uint64, error) {
		var b [8]byte
		_, err := io.ReadFull(r, b[:])
		return binary.NativeEndian.Uint64(b[:]), err
	}
	words := func(n int) ([]uint64, error) {
		vs := make([]uint64, n)
		for i := range vs {
			var err error
			if vs[i], err = word(); err != nil {
				return nil, fmt.Errorf("read plan: %w", err)
			}
		}
		return vs, nil
	}
	head, err := words(3)
	if err != nil {
		return nil, err
	}
	if head[0] != planMagic || head[1] > uint64(size) || head[2] > uint64(size) {
		return nil, errors.New("read plan: it is none")
	}
	p := &Plan{}
	for range head[1] {
		t, err := words(2)
		if err != nil {
			return nil, err
		}
		if t[1] > uint64(size)/uint64(unsafe.Sizeof(Extent{})) {
			return nil, errors.New("read plan: more extents than fit")
		}
		es := make([]Extent, t[1])
		if _, err := io.ReadFull(r, extentBytes(es)); err != nil {
			return nil, fmt.Errorf("read plan: %w", err)
		}
		p.Tasks = append(p.Tasks, TaskPlan{VPID: int(t[0]), Extents: es})
	}
	for range head[2] {
		h, err := words(3)
		if err != nil {
			return nil, err
		}
		if h[2] > math.MaxUint32 {
			return nil, errors.New("read plan: a hot range is too long")
		}
		p.Hot = append(p.Hot, Range{VPID: int(h[0]), Addr: h[1], Pages: uint32(h[2])})
	}
	return p, p.check()
}

// file puts the plan into a file without a name, positioned at its begin.
func (p *Plan) file() (*os.File, error) {
	fd, err := unix.MemfdCreate("plan", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file for the plan: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plan")
	if err = p.encode(f); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the plan: %w", err)
	}
	return f, nil
}

func readPlan(f *os.File) (*Plan, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	return decodePlan(f, info.Size())
}
