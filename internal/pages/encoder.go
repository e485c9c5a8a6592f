package pages

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// encoderBuffer is how many bytes of small records are gathered before they are written; pages are written from where
// they are.
const encoderBuffer = 64 << 10

// errClosed is what a closed Encoder returns.
var errClosed = errors.New("encoder is closed")

// Encoder writes one stream of one round. It is for one goroutine at a time; several may use one Table, as long as all
// that concerns one page goes to one of them.
//
// Errors of the writer are sticky, and the table is of no use after them.
type Encoder struct {
	t    *Table
	w    io.Writer
	hash hasher
	seal *seal
	buf  []byte // small records not yet written
	run  mapRun // MAP not yet in buf
	s    [maxRun]sample
	same uint64 // pages that the destination had already as they are
	err  error
}

// NewEncoder makes an Encoder that writes to w, which gets pieces of up to 1 MiB, some of a few bytes.
func NewEncoder(t *Table, w io.Writer) *Encoder {
	return &Encoder{t: t, w: w, hash: hasher{mac: t.mac}, seal: newSeal(), buf: make([]byte, 0, encoderBuffer+deltaSize+maxDelta)}
}

// Pages sends consecutive pages of a space, as far as the destination does not have them: p is what they hold, and page
// the number of the first. len(p) is a multiple of PageSize; p may be reused.
//
// With ErrFull the destination has some of the pages as they are now, from the first on, and knows of the others what it
// knew before, which must be dropped or sent later. The Encoder can be used further.
func (e *Encoder) Pages(space int32, page uint64, p []byte) error {
	n := uint64(len(p) / PageSize)
	if len(p)%PageSize != 0 || page > maxPage || n > maxPage-page {
		return fmt.Errorf("send pages: %d bytes at page %#x of space %d are not pages", len(p), page, space)
	}
	for len(p) > 0 && e.err == nil {
		part := p[:min(len(p), maxRun*PageSize)]
		if err := e.batch(space, page, part); err != nil {
			return fmt.Errorf("send %d pages of space %d from %#x: %w", n, space, page, err)
		}
		page += uint64(len(part) / PageSize)
		p = p[len(part):]
	}
	return e.err
}

// batch sends up to maxRun pages. What is slow, hashing and writing, is done without the table's lock.
func (e *Encoder) batch(space int32, page uint64, p []byte) error {
	s := e.s[:len(p)/PageSize]
	for i := range s {
		content := p[i*PageSize : (i+1)*PageSize]
		if s[i].zero = isZero(content); !s[i].zero {
			s[i].sum = e.hash.sum(content)
		}
	}
	done, full := e.t.settle(space, page, s)
	e.t.stats.refused.Add(uint64(len(s) - done))
	s = s[:done]
	e.patches(s, p)
	e.maps(space, page, s)
	e.data(s, p)
	e.count(s)
	if e.err != nil {
		return e.err
	}
	return full
}

// patches sends as DELTA what can be.
func (e *Encoder) patches(s []sample, p []byte) {
	if e.t.cache == nil {
		return
	}
	round := e.t.round.Load()
	for i := range s {
		switch s[i].verdict {
		case added:
			e.t.cache.forget(s[i].slot)
		case rewritten:
			if e.patch(s[i].slot, p[i*PageSize:(i+1)*PageSize], round) {
				s[i].verdict = patched
			}
		}
	}
}

func (e *Encoder) patch(slot uint32, content []byte, round uint32) bool {
	// the fields follow once the patch is known, in the room that is left for them
	start := len(e.buf)
	b, ok := e.t.cache.rewrite(e.buf[:start+deltaSize], slot, content, round)
	if !ok {
		return false
	}
	appendDelta(b[:start], slot, crc32.Checksum(content, castagnoli), len(b)-start-deltaSize)
	e.buf = b
	e.spill()
	return true
}

// maps sends where pages are that have moved. Runs go on from one call to the next.
func (e *Encoder) maps(space int32, page uint64, s []sample) {
	for i := range s {
		switch s[i].verdict {
		case zero, duplicate, added:
			at := page + uint64(i)
			if !e.run.extend(space, at, s[i].slot) {
				e.endRun()
				e.run = mapRun{space: space, page: at, n: 1, slot: s[i].slot}
			}
		}
	}
}

// endRun puts the run into the buffer.
func (e *Encoder) endRun() {
	if e.run.n > 0 {
		e.buf = appendMap(e.buf, e.run)
		e.run = mapRun{}
		e.spill()
	}
}

// data sends content. Pages in consecutive slots share a record even with others between them.
func (e *Encoder) data(s []sample, p []byte) {
	for i := 0; i < len(s); {
		if !s[i].isData() {
			i++
			continue
		}
		slot, n, end := s[i].slot, 0, i
		for ; end < len(s); end++ {
			if s[end].isData() {
				if s[end].slot != slot+uint32(n) {
					break
				}
				n++
			}
		}
		e.buf = appendData(e.buf, slot, n)
		e.flush()
		e.content(s[i:end], p[i*PageSize:end*PageSize])
		i = end
	}
}

func (s *sample) isData() bool { return s.verdict == added || s.verdict == rewritten }

// content writes those of the pages that are to be sent as they are.
func (e *Encoder) content(s []sample, p []byte) {
	for i := 0; i < len(s); {
		from := i
		for i < len(s) && s[i].isData() {
			i++
		}
		if i > from {
			for k := from; k < i; k++ {
				e.seal.page(s[k].sum)
			}
			e.write(p[from*PageSize : i*PageSize])
		}
		for i < len(s) && !s[i].isData() {
			i++
		}
	}
}

// Unchanged is how many of the pages so far the destination had already as they are.
func (e *Encoder) Unchanged() uint64 { return e.same }

func (e *Encoder) count(s []sample) {
	var n [patched + 1]uint64
	for i := range s {
		n[s[i].verdict]++
	}
	e.same += n[unchanged]
	c := &e.t.stats
	c.unchanged.Add(n[unchanged])
	c.zero.Add(n[zero])
	c.duplicates.Add(n[duplicate])
	c.data.Add(n[added] + n[rewritten])
	c.deltas.Add(n[patched])
}

// Drop makes the destination forget n pages of a space from page, or with page and n 0 all of them. Nothing is sent when
// it does not know any.
func (e *Encoder) Drop(space int32, page, n uint64) error {
	if e.err != nil {
		return e.err
	}
	if page > maxPage || n > maxPage-page || n == 0 && page != 0 {
		return fmt.Errorf("drop %d pages of space %d from %#x: out of range", n, space, page)
	}
	all := n
	if n == 0 {
		all = maxPage
	}
	if e.t.void(space, page, all) {
		e.endRun() // may map some of the pages
		e.buf = appendDrop(e.buf, space, page, n)
		e.spill()
	}
	return e.err
}

// Close writes what is left and the stream's end. It does not close the writer. Closing twice is harmless.
func (e *Encoder) Close() error {
	if errors.Is(e.err, errClosed) {
		return nil
	}
	e.endRun()
	e.buf = append(e.buf, recEnd)
	e.flush()
	if e.err != nil {
		return e.err
	}
	e.err = errClosed
	return nil
}

// Sum is the hash of the stream, see the package's documentation. It is meaningful after Close.
func (e *Encoder) Sum() [32]byte { return e.seal.sum() }

// spill writes the buffer before it would have to grow.
func (e *Encoder) spill() {
	if len(e.buf) >= encoderBuffer {
		e.flush()
	}
}

func (e *Encoder) flush() {
	if len(e.buf) > 0 {
		e.seal.fields(e.buf)
		e.write(e.buf)
		e.buf = e.buf[:0]
	}
}

func (e *Encoder) write(p []byte) {
	if e.err != nil {
		return
	}
	n, err := e.w.Write(p)
	e.t.stats.bytes.Add(uint64(n))
	if err != nil {
		e.err = fmt.Errorf("write page stream: %w", err)
	}
}
