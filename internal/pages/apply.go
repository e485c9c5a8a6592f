package pages

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// applyBuffer is how much is read at once from readers that have no buffer of their own.
const applyBuffer = 256 << 10

// Apply takes in one stream up to the reader's end. Streams of the same round may be applied at the same time. What
// comes is checked before it is used; damage and excess are reported as *FormatError. After any error the store is of no
// use.
//
// A reader that is an io.WriterTo, as a transfer.StreamReader is, is written into the store from its own buffer.
func (s *Store) Apply(r io.Reader) error { return s.Applier(Key{}).Apply(r) }

// Applier takes in one stream like Store.Apply, and computes its hash, for which it needs the table's key.
type Applier struct{ d decoder }

// Applier makes one for one stream. It is for one goroutine at a time.
func (s *Store) Applier(key Key) *Applier {
	return &Applier{decoder{s: s, seal: newSeal(), hash: hasher{mac: key.mac()}}}
}

// Sum is the hash of what was taken in so far, at the stream's end the same as Encoder.Sum.
func (a *Applier) Sum() [32]byte { return a.d.seal.sum() }

// Apply is Store.Apply.
func (a *Applier) Apply(r io.Reader) error {
	d := &a.d
	var buf []byte
	if _, ok := r.(io.WriterTo); !ok {
		buf = make([]byte, applyBuffer)
	}
	_, err := io.CopyBuffer(d, r, buf)
	switch {
	case d.err != nil:
		return d.err
	case err != nil:
		return fmt.Errorf("read page stream at offset %d: %w", d.offset, err)
	case !d.ended:
		return &FormatError{Offset: d.start, Reason: "early end", Err: io.ErrUnexpectedEOF}
	}
	return nil
}

// decoder applies a stream that it is given in pieces of any size. It keeps nothing of them but the beginning of a
// record that another piece continues; content goes to the file as it comes.
type decoder struct {
	s      *Store
	seal   *seal
	hash   hasher
	part   []byte // of a page that comes in several pieces, for its sum
	offset int64  // bytes taken
	start  int64  // offset of the present record
	head   []byte // what has come of a record without content
	left   int    // bytes of content that are still to come
	at     int64  // where in the file they belong
	page   []byte // for patches
	ended  bool
	err    error // sticky
}

// Write takes the next piece.
func (d *decoder) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 && d.err == nil {
		var n int
		if d.left > 0 {
			n, d.err = d.content(p)
		} else {
			n, d.err = d.fields(p)
		}
		d.offset += int64(n)
		p = p[n:]
	}
	if d.err != nil {
		return total - len(p), d.err
	}
	return total, nil
}

// content stores what there is of a DATA record's pages.
func (d *decoder) content(p []byte) (int, error) {
	n := min(len(p), d.left)
	if _, err := d.s.file.WriteAt(p[:n], d.at); err != nil {
		return 0, fmt.Errorf("store pages: %w", err)
	}
	d.sums(p[:n])
	d.left -= n
	d.at += int64(n)
	return n, nil
}

// sums takes content into the hash, page by page.
func (d *decoder) sums(p []byte) {
	if len(d.part) > 0 {
		n := min(PageSize-len(d.part), len(p))
		d.part = append(d.part, p[:n]...)
		p = p[n:]
		if len(d.part) < PageSize {
			return
		}
		d.seal.page(d.hash.sum(d.part))
		d.part = d.part[:0]
	}
	for ; len(p) >= PageSize; p = p[PageSize:] {
		d.seal.page(d.hash.sum(p[:PageSize]))
	}
	d.part = append(d.part, p...)
}

// fields takes a record, or as much as there is of it, and applies it once it is complete. It returns how many bytes it
// has taken.
func (d *decoder) fields(p []byte) (int, error) {
	if len(d.head) == 0 {
		d.start = d.offset
		n, err := d.length(p)
		if err != nil {
			return 0, err
		}
		if n <= len(p) { // the usual case: all of it is here
			return n, d.apply(p[:n])
		}
	}
	n, err := d.length(d.head)
	if err != nil {
		return 0, err
	}
	take := min(n-len(d.head), len(p))
	d.head = append(d.head, p[:take]...)
	if n, err = d.length(d.head); err != nil || n > len(d.head) {
		return take, err
	}
	err = d.apply(d.head)
	d.head = d.head[:0]
	return take, err
}

// length tells how long the record is that begins with b, as far as b tells: more than len(b) until b is complete.
func (d *decoder) length(b []byte) (int, error) {
	if d.ended {
		return 0, d.bad("bytes after the end", nil)
	}
	if len(b) == 0 {
		return 1, nil
	}
	switch b[0] {
	case recData:
		return dataSize, nil
	case recMap:
		return mapSize, nil
	case recDrop:
		return dropSize, nil
	case recEnd:
		return endSize, nil
	case recDelta:
		if len(b) < deltaSize {
			return deltaSize, nil
		}
		n := binary.LittleEndian.Uint16(b[9:])
		return deltaSize + int(n), d.check("length of a patch", uint64(n), maxDelta)
	}
	return 0, d.bad(fmt.Sprintf("unknown record type %#x", b[0]), nil)
}

func (d *decoder) bad(reason string, err error) error {
	return &FormatError{Offset: d.start, Reason: reason, Err: err}
}

// check refuses a number that is not within 1 to limit.
func (d *decoder) check(what string, n, limit uint64) error {
	switch {
	case n == 0:
		return d.bad(what+" is zero", nil)
	case n > limit:
		return d.bad("out of range", &LimitError{What: what, Got: n, Max: limit})
	}
	return nil
}

// apply does what a complete record says.
func (d *decoder) apply(b []byte) error {
	d.seal.fields(b)
	switch b[0] {
	case recData:
		return d.data(binary.LittleEndian.Uint32(b[1:]), uint32(binary.LittleEndian.Uint16(b[5:])))
	case recMap:
		return d.mapPages(mapRun{
			space: int32(binary.LittleEndian.Uint32(b[1:])), page: binary.LittleEndian.Uint64(b[5:]),
			n: binary.LittleEndian.Uint32(b[13:]), slot: binary.LittleEndian.Uint32(b[17:]),
		})
	case recDrop:
		return d.drop(int32(binary.LittleEndian.Uint32(b[1:])), binary.LittleEndian.Uint64(b[5:]), binary.LittleEndian.Uint64(b[13:]))
	case recDelta:
		return d.delta(binary.LittleEndian.Uint32(b[1:]), binary.LittleEndian.Uint32(b[5:]), b[deltaSize:])
	}
	d.ended = true // recEnd, there is no other
	return nil
}

// data prepares for a DATA record's content.
func (d *decoder) data(slot, n uint32) error {
	if err := d.check("number of slots", uint64(n), maxRun); err != nil {
		return err
	}
	if err := d.checkSlots(slot, n); err != nil {
		return err
	}
	d.left, d.at = int(n)*PageSize, int64(slot)*PageSize
	d.s.reach(slot + n - 1)
	return nil
}

// reach notes that the file goes up to slot.
func (s *Store) reach(slot uint32) {
	for high := s.high.Load(); slot > high; high = s.high.Load() {
		if s.high.CompareAndSwap(high, slot) {
			return
		}
	}
}

// checkSlots refuses slots that the store does not have; n is at least 1.
func (d *decoder) checkSlots(slot, n uint32) error {
	if slot == 0 {
		return d.bad("slot is zero", nil)
	}
	return d.check("slot", uint64(slot)+uint64(n)-1, uint64(d.s.last))
}

// checkPages refuses page numbers beyond the address space; n is at least 1.
func (d *decoder) checkPages(page, n uint64) error {
	if err := d.check("number of pages", n, maxPage); err != nil {
		return err
	}
	return d.check("end of pages", min(page, maxPage)+n, maxPage)
}

func (d *decoder) mapPages(r mapRun) error {
	if err := d.checkPages(r.page, uint64(r.n)); err != nil {
		return err
	}
	if r.slot != 0 {
		if err := d.checkSlots(r.slot, r.n); err != nil {
			return err
		}
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	if err := d.s.pages.mapRun(r); err != nil {
		return d.bad("too many pages", err)
	}
	return nil
}

func (d *decoder) drop(space int32, page, n uint64) error {
	if page == 0 && n == 0 {
		n = maxPage
	}
	if err := d.checkPages(page, n); err != nil {
		return err
	}
	d.s.mu.Lock()
	defer d.s.mu.Unlock()
	d.s.pages.drop(space, page, n, nil)
	return nil
}

// delta patches what a slot holds.
func (d *decoder) delta(slot, want uint32, p []byte) error {
	if err := d.checkSlots(slot, 1); err != nil {
		return err
	}
	if d.page == nil {
		d.page = make([]byte, PageSize)
	}
	if err := d.s.readSlot(slot, d.page); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return d.bad("patch", err)
		}
		return fmt.Errorf("read what to patch: %w", err)
	}
	if err := patch(d.page, p); err != nil {
		return d.bad("patch", err)
	}
	if got := crc32.Checksum(d.page, castagnoli); got != want {
		return d.bad(fmt.Sprintf("patched page has checksum %08x, want %08x", got, want), nil)
	}
	if _, err := d.s.file.WriteAt(d.page, int64(slot)*PageSize); err != nil {
		return fmt.Errorf("store patched page: %w", err)
	}
	return nil
}
