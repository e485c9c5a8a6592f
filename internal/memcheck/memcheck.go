// Package memcheck compares the memory of a restored container with that of its frozen original, page by page, before the first
// instruction runs. The source hashes every page that the dump names as memory; the destination hashes the same pages of what it
// restored. Left out are the few bytes in which the kernel itself notes on which CPU a thread runs; both ends have them from the image set.
//
// The stream, integers in little-endian:
//
//	magic "MGCHECK1"
//	run*   space i32, first page u64 (address / 4096), pages u32 (1 to 256), then for each page 16 bytes of its BLAKE3 hash
//	end    space i32 = 0, total of pages u64
//
// A space is a process, by its innermost pid, or, with a negative number, a piece of shared memory (shmem.Space). Of shared memory it is also
// checked that there is nothing but zeros where the source has no page.
package memcheck

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/zeebo/blake3"

	"migrate/internal/shmem"
	"migrate/internal/track"
)

const (
	magic   = "MGCHECK1"
	sumSize = 16
	runMax  = 256 // pages
)

// Space is memory whose pages are named by its addresses.
type Space struct {
	ID     int32
	Memory Memory
	Ranges []track.Range
}

// Memory is what can be read of a space.
type Memory interface {
	// Read reads pages; it fails unless it gets all of them.
	Read(addr uint64, p []byte) error
	// Data lists the pages that there are, ascending; all others are zeros. It lists none where that is not known.
	Data() ([]track.Range, error)
}

// Process is the memory of a process, by its pid on this host.
type Process int

// Read implements Memory. Nothing is read that the process does not have.
func (p Process) Read(addr uint64, b []byte) error {
	gone, err := track.Reader{Pid: int(p)}.Read([]track.Range{{Start: addr, End: addr + uint64(len(b))}}, b)
	if err != nil {
		return fmt.Errorf("read memory of process %d: %w", p, err)
	}
	if len(gone) > 0 {
		return fmt.Errorf("read memory of process %d: page %#x cannot be read", p, gone[0].Start)
	}
	return nil
}

// Data implements Memory.
func (Process) Data() ([]track.Range, error) { return nil, nil }

// Without is memory without some of its bytes: they are read as zeros, so that they are the same at both ends whatever is there.
type Without struct {
	Memory
	Bytes []track.Range
}

// Read implements Memory.
func (w Without) Read(addr uint64, b []byte) error {
	if err := w.Memory.Read(addr, b); err != nil {
		return err
	}
	end := addr + uint64(len(b))
	for _, r := range w.Bytes {
		if from, to := max(addr, r.Start), min(end, r.End); from < to {
			clear(b[from-addr : to-addr])
		}
	}
	return nil
}

// Shared is shared memory.
type Shared struct{ Object *shmem.Object }

// Read implements Memory.
func (s Shared) Read(off uint64, b []byte) error {
	n, err := s.Object.ReadPages(b, off)
	if err == nil && n < len(b) {
		err = fmt.Errorf("shared memory %d ends at %#x", s.Object.ID, off+uint64(n))
	}
	return err
}

// Data implements Memory.
func (s Shared) Data() ([]track.Range, error) {
	list, _, err := s.Object.Data()
	return list, err
}

// ErrFormat is a stream that is not as it has to be.
var ErrFormat = errors.New("malformed page check")

func sumOf(p []byte) [sumSize]byte {
	h := blake3.Sum256(p)
	return [sumSize]byte(h[:sumSize])
}

// Write hashes the pages of memory that stands still.
func Write(w io.Writer, spaces []Space) (pages int64, err error) {
	bw := bufio.NewWriterSize(w, 256<<10)
	bw.WriteString(magic) // errors stick and show at Flush
	buf := track.NewBuffer(runMax * track.PageSize)
	for _, s := range spaces {
		for _, r := range s.Ranges {
			for r.Start < r.End {
				part := track.Range{Start: r.Start, End: min(r.End, r.Start+uint64(len(buf)))}
				p := buf[:part.End-part.Start]
				if err := s.Memory.Read(part.Start, p); err != nil {
					return pages, err
				}
				writeRun(bw, s.ID, part.Start/track.PageSize, p)
				pages += int64(len(p) / track.PageSize)
				r.Start = part.End
			}
		}
	}
	bw.Write(binary.LittleEndian.AppendUint64(make([]byte, 4), uint64(pages)))
	if err := bw.Flush(); err != nil {
		return pages, fmt.Errorf("send the page check: %w", err)
	}
	return pages, nil
}

func writeRun(w *bufio.Writer, space int32, page uint64, p []byte) {
	head := binary.LittleEndian.AppendUint32(nil, uint32(space))
	head = binary.LittleEndian.AppendUint64(head, page)
	w.Write(binary.LittleEndian.AppendUint32(head, uint32(len(p)/track.PageSize)))
	for ; len(p) > 0; p = p[track.PageSize:] {
		sum := sumOf(p[:track.PageSize])
		w.Write(sum[:])
	}
}

// Result is what a comparison found.
type Result struct {
	Compared  int64
	Differing int64
	First     string // names the first page that differs
}

// Compare reads what Write wrote and compares it with the memory of this host, which open finds for each space.
func Compare(r io.Reader, open func(space int32) (Memory, error)) (res Result, err error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(br, head); err != nil || string(head) != magic {
		return res, fmt.Errorf("%w: no magic", ErrFormat)
	}
	c := comparer{open: open, spaces: map[int32]*compared{}, buf: track.NewBuffer(runMax * track.PageSize), sums: make([]byte, runMax*sumSize)}
	for {
		last, err := c.run(br, &res)
		if err != nil {
			return res, err
		}
		if last {
			return res, c.others(&res)
		}
	}
}

// For how long, and how often, pages are asked for that cannot be read: they are being filled in.
const (
	patience = 20 * time.Second
	pause    = 5 * time.Millisecond
)

type comparer struct {
	open      func(int32) (Memory, error)
	spaces    map[int32]*compared
	buf, sums []byte
}

// compared is a space of which something was compared.
type compared struct {
	memory Memory
	seen   []track.Range // what was compared
}

func (c *comparer) space(id int32) (*compared, error) {
	if s := c.spaces[id]; s != nil {
		return s, nil
	}
	m, err := c.open(id)
	if err != nil {
		return nil, fmt.Errorf("compare memory: %w", err)
	}
	s := &compared{memory: m}
	c.spaces[id] = s
	return s, nil
}

// run takes one run, or the end.
func (c *comparer) run(br *bufio.Reader, res *Result) (last bool, err error) {
	var head [16]byte
	if _, err := io.ReadFull(br, head[:12]); err != nil {
		return false, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	id, page := int32(binary.LittleEndian.Uint32(head[:])), binary.LittleEndian.Uint64(head[4:])
	if id == 0 {
		if _, err := br.ReadByte(); err != io.EOF || page != uint64(res.Compared) {
			return false, fmt.Errorf("%w: it does not end where it says", ErrFormat)
		}
		return true, nil
	}
	if _, err := io.ReadFull(br, head[12:]); err != nil {
		return false, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	n := binary.LittleEndian.Uint32(head[12:])
	if n == 0 || n > runMax || page >= 1<<52 {
		return false, fmt.Errorf("%w: a run of %d pages of space %d", ErrFormat, n, id)
	}
	sums := c.sums[:n*sumSize]
	if _, err := io.ReadFull(br, sums); err != nil {
		return false, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	s, err := c.space(id)
	if err != nil {
		return false, err
	}
	r := track.Range{Start: page * track.PageSize, End: (page + uint64(n)) * track.PageSize}
	if k := len(s.seen); k > 0 && s.seen[k-1].End == r.Start {
		s.seen[k-1].End = r.End
	} else {
		s.seen = append(s.seen, r)
	}
	return false, c.compare(id, s.memory, r.Start, sums, res)
}

func (c *comparer) compare(id int32, m Memory, addr uint64, sums []byte, res *Result) error {
	n := len(sums) / sumSize
	// memory that its owner may not read is read in a way that does not wait for pages which are not in place yet
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err := m.Read(addr, c.buf[:n*track.PageSize])
		if err == nil {
			break
		}
		if time.Now().After(end) {
			return fmt.Errorf("compare memory: %w", err)
		}
	}
	for i := range n {
		got := sumOf(c.buf[i*track.PageSize : (i+1)*track.PageSize])
		if !bytes.Equal(got[:], sums[i*sumSize:(i+1)*sumSize]) {
			res.differs(id, addr+uint64(i)*track.PageSize)
		}
	}
	res.Compared += int64(n)
	return nil
}

func (r *Result) differs(space int32, addr uint64) {
	if r.Differing++; r.First != "" {
		return
	}
	what := "process"
	if space < 0 {
		what = "shared memory, space"
	}
	r.First = fmt.Sprintf("%s %d, page %#x", what, space, addr)
}

// others looks at pages that there are here and were not compared: they are zeros, or differ.
func (c *comparer) others(res *Result) error {
	for id, s := range c.spaces {
		data, err := s.memory.Data()
		if err != nil {
			return fmt.Errorf("compare memory: %w", err)
		}
		for _, r := range track.Minus(data, s.seen) {
			for ; r.Start < r.End; r.Start += track.PageSize {
				page := c.buf[:track.PageSize]
				if err := s.memory.Read(r.Start, page); err != nil {
					return fmt.Errorf("compare memory: %w", err)
				}
				if !bytes.Equal(page, zeros[:]) {
					res.differs(id, r.Start)
				}
			}
		}
	}
	return nil
}

var zeros [track.PageSize]byte
