package layers

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

// decoder reads a stream, record by record; its twin is encoder. It checks
// lengths, fields and the order within a record; what a record may do is the
// applier's to judge.
type decoder struct {
	r       *bufio.Reader
	hash    *blake3.Hasher
	buf     []byte // payload of the current record
	rest    []byte // part of buf not yet parsed
	offset  int64  // bytes read
	start   int64  // offset of the current record
	entries int64
	bytes   int64
	maxDeep int
	err     error // first error while parsing a payload
}

func newDecoder(r io.Reader, l Limits) (*decoder, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10), hash: blake3.New(), maxDeep: l.MaxDepth}
	var b [len(magic)]byte
	if err := d.read(b[:]); err != nil {
		return nil, err
	}
	if string(b[:]) != magic {
		if string(b[:len(b)-1]) == magic[:len(magic)-1] {
			return nil, d.bad(fmt.Sprintf("version %d, want %d", b[len(b)-1], magic[len(magic)-1]))
		}
		return nil, d.bad("not a layer stream")
	}
	d.hash.Write(b[:])
	return d, nil
}

func (d *decoder) bad(reason string) error {
	return &FormatError{Offset: d.start, Reason: reason}
}

// read fills b. The reader's own failures are passed on as they are.
func (d *decoder) read(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	d.offset += int64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &FormatError{Offset: d.start, Reason: "early end", Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("read layer stream at offset %d: %w", d.offset, err)
}

// next reads one record into rec. The strings are copies, the data are not.
func (d *decoder) next(rec *record) error {
	d.start = d.offset
	var head [headerLen]byte
	if err := d.read(head[:]); err != nil {
		return err
	}
	typ, n := head[0], binary.LittleEndian.Uint32(head[1:])
	if err := d.checkLength(typ, n); err != nil {
		return err
	}
	if cap(d.buf) < int(n) {
		d.buf = make([]byte, n)
	}
	d.buf = d.buf[:n]
	if err := d.read(d.buf); err != nil {
		return err
	}
	*rec = record{typ: typ, offset: d.start}
	d.rest, d.err = d.buf, nil
	d.hash.Write(head[:])
	if typ == recEnd {
		return d.end()
	}
	d.hash.Write(d.buf)
	d.parse(rec)
	if d.err == nil && len(d.rest) > 0 {
		d.fail("bytes after the last field")
	}
	return d.err
}

func (d *decoder) checkLength(typ byte, n uint32) error {
	limit := uint32(0)
	switch typ {
	case recEntry:
		limit = maxPayload
	case recData:
		limit = maxData + 8
	case recLink:
		limit = 2 * (maxPath + 4)
	case recSlot, recRemove, recWhiteout, recDirTime:
		limit = maxPath + 16
	case recHole, recFileEnd:
		limit = 16
	case recEnd:
		if n != endLen {
			return d.bad("END of wrong length")
		}
		return nil
	default:
		return d.bad(fmt.Sprintf("unknown record type %#x", typ))
	}
	if n > limit {
		return &FormatError{Offset: d.start, Reason: "record too long",
			Err: &LimitError{What: fmt.Sprintf("record %c", typ), Limit: int64(limit), Got: int64(n)}}
	}
	return nil
}

func (d *decoder) parse(rec *record) {
	switch rec.typ {
	case recSlot:
		rec.slot = d.u32()
		rec.path = d.path(false)
	case recRemove, recWhiteout:
		rec.path = d.path(false)
	case recLink:
		rec.path = d.path(false)
		rec.target = d.path(false)
	case recDirTime:
		rec.mtime = d.stamp()
		rec.path = d.path(true)
	case recEntry:
		d.entry(&rec.entry)
		rec.path = rec.entry.path
	case recData:
		rec.at = d.size()
		rec.data, d.rest = d.rest, nil
		rec.length = int64(len(rec.data))
		d.bytes += rec.length
	case recHole:
		rec.at = d.size()
		rec.length = d.size()
		if rec.length > maxFileSize {
			d.fail("hole too long")
		}
	case recFileEnd:
		rec.length = d.size()
	}
	switch rec.typ {
	case recSlot, recRemove, recWhiteout, recLink, recEntry:
		d.entries++
	}
}

func (d *decoder) entry(v *entry) {
	v.kind = d.u8()
	v.flags = d.u8()
	v.mode = d.u32()
	v.uid = d.u32()
	v.gid = d.u32()
	v.mtime = d.stamp()
	v.major = d.u32()
	v.minor = d.u32()
	v.slot = d.u32()
	v.path = d.path(true)
	v.target = d.str(maxTarget)
	d.attrs(&v.attrs)
	if d.err == nil {
		d.check(v.validate())
	}
}

// validate checks fields that depend on each other.
func (v *entry) validate() error {
	switch {
	case v.kind < kindFile || v.kind > kindBlock:
		return fmt.Errorf("unknown kind %d", v.kind)
	case v.flags&^(entryNew|entrySlot) != 0:
		return fmt.Errorf("unknown flags %#x", v.flags)
	case v.mode&^0o7777 != 0:
		return fmt.Errorf("mode %#o out of range", v.mode)
	case v.uid == noID || v.gid == noID:
		return errors.New("owner out of range")
	case v.path == "" && (v.kind != kindDir || v.flags != 0):
		return errors.New("the upper directory itself must be an existing directory")
	case v.flags&entrySlot != 0 && (v.kind != kindFile || v.flags&entryNew == 0):
		return errors.New("slot for an entry that is no new file")
	case v.flags&entrySlot == 0 && v.slot != 0:
		return errors.New("slot number without slot")
	case (v.kind == kindSymlink) != (v.target != ""):
		return errors.New("target does not fit the kind")
	case bytes.IndexByte([]byte(v.target), 0) >= 0:
		return errors.New("target holds a NUL")
	case v.flags&entryNew == 0 && v.kind != kindFile && v.kind != kindDir:
		return errors.New("only files and directories change in place")
	case v.kind != kindChar && v.kind != kindBlock && (v.major != 0 || v.minor != 0):
		return errors.New("device number of no device")
	case v.kind == kindChar && v.major == 0 && v.minor == 0:
		return errors.New("whiteout as a device")
	}
	return v.attrs.validate(v.kind)
}

func (d *decoder) attrs(a *attrs) {
	n := int(d.u16())
	for i := 0; i < n && d.err == nil; i++ {
		a.overlay = append(a.overlay, overlayAttr{d.u8(), d.u8(), d.u8(), d.str(maxXattrValue)})
	}
	n = int(d.u16())
	if n > maxXattrs {
		d.fail("too many attributes")
		return
	}
	for i := 0; i < n && d.err == nil; i++ {
		a.plain = append(a.plain, plainAttr{d.str(maxXattrName), d.str(maxXattrValue)})
	}
}

// end checks END against what was read, and that nothing follows.
func (d *decoder) end() error {
	fixed := d.buf[:endLen-32]
	d.hash.Write(fixed)
	entries, content := d.u64(), d.u64()
	switch {
	case !bytes.Equal(d.hash.Sum(nil), d.buf[endLen-32:]):
		return d.bad("hash does not match")
	case entries != uint64(d.entries) || content != uint64(d.bytes):
		return d.bad("counts do not match")
	}
	_, err := d.r.ReadByte()
	if errors.Is(err, io.EOF) {
		return nil
	}
	d.start = d.offset
	if err != nil {
		return fmt.Errorf("read layer stream at offset %d: %w", d.offset, err)
	}
	return d.bad("bytes after the end")
}
