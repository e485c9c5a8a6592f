package layers

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

// encoder writes a stream, record by record; its twin is decoder.
type encoder struct {
	w       *bufio.Writer
	hash    *blake3.Hasher
	buf     []byte // record under construction
	written int64
	entries int64 // records that count for END
	bytes   int64 // content bytes
}

const encoderBuffer = 256 << 10

// newEncoder starts a stream on w.
func newEncoder(w io.Writer) (*encoder, error) {
	e := &encoder{hash: blake3.New()}
	e.w = bufio.NewWriterSize(w, encoderBuffer)
	e.buf = append(e.buf, magic...)
	return e, e.emit()
}

// emit hashes and writes buf, and empties it.
func (e *encoder) emit() error {
	e.hash.Write(e.buf)
	return e.write(e.buf)
}

func (e *encoder) write(b []byte) error {
	n, err := e.w.Write(b)
	e.written += int64(n)
	e.buf = e.buf[:0]
	if err != nil {
		return fmt.Errorf("write layer stream: %w", err)
	}
	return nil
}

func (e *encoder) begin(typ byte) {
	e.buf = append(e.buf[:0], typ, 0, 0, 0, 0)
}

// finish fills in the length and writes the record; more is payload that follows
// buf without being copied into it.
func (e *encoder) finish(more []byte) error {
	n := len(e.buf) - headerLen + len(more)
	if n > maxPayload {
		return &LimitError{What: "record", Limit: maxPayload, Got: int64(n)}
	}
	binary.LittleEndian.PutUint32(e.buf[1:], uint32(n))
	if err := e.emit(); err != nil || more == nil {
		return err
	}
	e.hash.Write(more)
	return e.write(more)
}

func (e *encoder) u8(v uint8)   { e.buf = append(e.buf, v) }
func (e *encoder) u16(v uint16) { e.buf = binary.LittleEndian.AppendUint16(e.buf, v) }
func (e *encoder) u32(v uint32) { e.buf = binary.LittleEndian.AppendUint32(e.buf, v) }
func (e *encoder) u64(v uint64) { e.buf = binary.LittleEndian.AppendUint64(e.buf, v) }

func (e *encoder) stamp(s stamp) {
	e.u64(uint64(s.sec))
	e.u32(s.nsec)
}

func (e *encoder) str(s string) {
	e.u32(uint32(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) pathRecord(typ byte, path string) error {
	e.entries++
	e.begin(typ)
	e.str(path)
	return e.finish(nil)
}

func (e *encoder) remove(path string) error   { return e.pathRecord(recRemove, path) }
func (e *encoder) whiteout(path string) error { return e.pathRecord(recWhiteout, path) }

func (e *encoder) putAside(path string, slot uint32) error {
	e.entries++
	e.begin(recSlot)
	e.u32(slot)
	e.str(path)
	return e.finish(nil)
}

func (e *encoder) link(path, target string) error {
	e.entries++
	e.begin(recLink)
	e.str(path)
	e.str(target)
	return e.finish(nil)
}

func (e *encoder) dirTime(path string, mtime stamp) error {
	e.begin(recDirTime)
	e.stamp(mtime)
	e.str(path)
	return e.finish(nil)
}

func (e *encoder) entry(v *entry) error {
	e.entries++
	e.begin(recEntry)
	e.u8(v.kind)
	e.u8(v.flags)
	e.u32(v.mode)
	e.u32(v.uid)
	e.u32(v.gid)
	e.stamp(v.mtime)
	e.u32(v.major)
	e.u32(v.minor)
	e.u32(v.slot)
	e.str(v.path)
	e.str(v.target)
	e.attrs(&v.attrs)
	return e.finish(nil)
}

func (e *encoder) attrs(a *attrs) {
	e.u16(uint16(len(a.overlay)))
	for _, x := range a.overlay {
		e.u8(x.space)
		e.u8(x.depth)
		e.u8(x.id)
		e.str(x.value)
	}
	e.u16(uint16(len(a.plain)))
	for _, x := range a.plain {
		e.str(x.name)
		e.str(x.value)
	}
}

func (e *encoder) data(at int64, b []byte) error {
	e.bytes += int64(len(b))
	e.begin(recData)
	e.u64(uint64(at))
	return e.finish(b)
}

func (e *encoder) hole(at, length int64) error {
	e.begin(recHole)
	e.u64(uint64(at))
	e.u64(uint64(length))
	return e.finish(nil)
}

func (e *encoder) fileEnd(size int64) error {
	e.begin(recFileEnd)
	e.u64(uint64(size))
	return e.finish(nil)
}

// end writes END and flushes. The hash covers every byte before itself.
func (e *encoder) end() error {
	e.begin(recEnd)
	e.u64(uint64(e.entries))
	e.u64(uint64(e.bytes))
	binary.LittleEndian.PutUint32(e.buf[1:], endLen)
	if err := e.emit(); err != nil {
		return err
	}
	if err := e.write(e.hash.Sum(nil)); err != nil {
		return err
	}
	if err := e.w.Flush(); err != nil {
		return fmt.Errorf("write layer stream: %w", err)
	}
	return nil
}
