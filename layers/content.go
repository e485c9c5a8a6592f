package layers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// content is what an inode of the destination holds. Two paths of an index are
// names of one inode at the destination if, and only if, they share a *content.
type content struct {
	blocks []blockSum // ascending; blocks that are all hole are left out
	shared bool       // has or had several names
	dirty  bool       // changed under the reader
}

// blockSum is one block's hash, over the layout of data and holes in it and the
// data themselves.
type blockSum struct {
	index int64 // offset / block size
	sum   digest
}

// extent is a range of file content that is data.
type extent struct{ at, end int64 }

// blockReader reads the blocks of a file that hold data.
type blockReader struct {
	f     *os.File
	size  int64 // where reading stops, whatever the file's size is by now
	block int64
	pos   int64  // where to look for data next
	known extent // data extent that covers pos, if any
	buf   []byte // one block
	hash  *blake3.Hasher
	short bool // the file had less to read than its size promised

	index   int64
	extents []extent // of block index, ascending
	sum     digest
}

// next reads the next block with data; io.EOF after the last.
func (r *blockReader) next() error {
	for {
		if err := r.locate(); err != nil {
			return err
		}
		if err := r.load(); err != nil {
			return err
		}
		if len(r.extents) > 0 {
			r.digest()
			return nil
		}
	}
}

// locate fills in index and extents.
func (r *blockReader) locate() error {
	e, err := r.dataAt(r.pos)
	if err != nil {
		return err
	}
	r.index = e.at / r.block
	end := min((r.index+1)*r.block, r.size)
	r.extents = append(r.extents[:0], extent{e.at, min(e.end, end)})
	for e.end < end {
		if e, err = r.dataAt(e.end); errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if e.at >= end {
			break
		}
		r.extents = append(r.extents, extent{e.at, min(e.end, end)})
	}
	r.pos = end
	return nil
}

// dataAt returns the first data at or after pos, io.EOF if there are none.
func (r *blockReader) dataAt(pos int64) (extent, error) {
	if pos >= r.known.at && pos < r.known.end {
		return extent{pos, r.known.end}, nil
	}
	if pos >= r.size {
		return extent{}, io.EOF
	}
	fd := int(r.f.Fd())
	at, err := unix.Seek(fd, pos, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && at >= r.size {
		return extent{}, io.EOF
	}
	if err != nil {
		return extent{}, fmt.Errorf("seek data: %w", err)
	}
	end, err := unix.Seek(fd, at, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) { // truncated since
		r.short = true
		return extent{}, io.EOF
	}
	if err != nil {
		return extent{}, fmt.Errorf("seek hole: %w", err)
	}
	if end <= at { // the hole was punched since
		r.short = true
		return extent{}, io.EOF
	}
	r.known = extent{at, min(end, r.size)}
	return r.known, nil
}

// load reads the extents; what is missing of them counts as a hole.
func (r *blockReader) load() error {
	start := r.index * r.block
	for i := range r.extents {
		e := &r.extents[i]
		n, err := r.f.ReadAt(r.buf[e.at-start:e.end-start], e.at)
		if int64(n) == e.end-e.at {
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read: %w", err)
		}
		r.short, r.known = true, extent{}
		if e.end = e.at + int64(n); n > 0 {
			i++
		}
		r.extents = r.extents[:i]
		return nil
	}
	return nil
}

func (r *blockReader) digest() {
	start := r.index * r.block
	r.hash.Reset()
	var b [16]byte
	for _, e := range r.extents {
		binary.LittleEndian.PutUint64(b[:8], uint64(e.at-start))
		binary.LittleEndian.PutUint64(b[8:], uint64(e.end-e.at))
		r.hash.Write(b[:])
		r.hash.Write(r.data(e))
	}
	r.sum = sumDigest(r.hash)
}

func (r *blockReader) data(e extent) []byte {
	start := r.index * r.block
	return r.buf[e.at-start : e.end-start]
}
