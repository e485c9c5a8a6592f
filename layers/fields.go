package layers

import (
	"encoding/binary"
	"errors"
	"math"
)

// The decoder's field readers. After the first failure they return zeros, so
// that callers check d.err once.

func (d *decoder) fail(reason string) {
	if d.err == nil {
		d.err = d.bad(reason)
	}
}

// check records err as the failure, a LimitError by itself.
func (d *decoder) check(err error) {
	if err == nil || d.err != nil {
		return
	}
	if l := (*LimitError)(nil); errors.As(err, &l) {
		d.err = err
		return
	}
	d.err = &FormatError{Offset: d.start, Reason: "bad field", Err: err}
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n > len(d.rest) {
		d.fail("field longer than its record")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// size reads an offset or a length of a file.
func (d *decoder) size() int64 {
	v := d.u64()
	if v > math.MaxInt64 {
		d.fail("offset or length out of range")
		return 0
	}
	return int64(v)
}

func (d *decoder) stamp() stamp {
	s := stamp{int64(d.u64()), d.u32()}
	if s.nsec >= 1e9 {
		d.fail("nanoseconds out of range")
	}
	return s
}

func (d *decoder) str(limit int) string {
	n := d.u32()
	if n > uint32(limit) {
		d.fail("string too long")
		return ""
	}
	return string(d.take(int(n)))
}

func (d *decoder) path(root bool) string {
	p := d.str(maxPath)
	if d.err == nil {
		d.check(checkPath(p, root, d.maxDeep))
	}
	return p
}
