package pages

import (
	"crypto/cipher"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// Table is what the source knows of the destination's store once the present round is applied. It is safe for concurrent
// use, by several Encoders above all, and takes 30 to 40 bytes a page.
//
// When an Encoder fails, other than with ErrFull, or a stream is not applied, the table tells more than the store has:
// both must be discarded.
type Table struct {
	key   Key
	mac   cipher.AEAD
	cache *deltaCache   // nil: none
	round atomic.Uint32 // counts BeginRound

	mu    sync.Mutex
	pages *pageMap
	slots *slots
	stats counters
}

// Stats counts what was given to Encoders, and what became of it.
type Stats struct {
	Pages      uint64 // all, which is the sum of the next six
	Zero       uint64 // pages that became all zero
	Unchanged  uint64 // the destination had them already
	Duplicates uint64 // the destination had, or gets within the round, their content in a slot
	Deltas     uint64 // sent as a patch
	Data       uint64 // sent as they are
	Refused    uint64 // ErrFull
	Bytes      uint64 // that Encoders have written
	Stored     int64  // bytes that the destination's store takes
}

type counters struct {
	zero, unchanged, duplicates, deltas, data, refused, bytes atomic.Uint64
}

// NewTable makes the table for an empty store which may take up to limit bytes. deltaCache is how many bytes of pages to
// keep at this side, so that pages that are sent again and again are sent as patches; 0 means none.
func NewTable(limit, deltaCache int64) *Table {
	n := slotCount(limit)
	key := newKey()
	return &Table{key: key, mac: key.mac(), cache: newDeltaCache(deltaCache), pages: newPageMap(n, 1), slots: newSlots(n)}
}

// Key is what the destination needs to compute the streams' sums.
func (t *Table) Key() Key { return t.key }

// BeginRound tells that all streams so far have been applied. No Encoder may be in use.
func (t *Table) BeginRound() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.slots.beginRound()
	t.round.Add(1)
}

// Has tells whether the destination has the page.
func (t *Table) Has(space int32, page uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pages.get(space, page) != entryNone
}

// Reset notes that the destination knows nothing of the space. It does not tell the destination, Encoder.Drop does both.
func (t *Table) Reset(space int32) { t.void(space, 0, maxPage) }

// Void notes that the destination knows nothing of n pages from page. It does not tell the destination, Encoder.Drop
// does both.
func (t *Table) Void(space int32, page, n uint64) { t.void(space, page, n) }

// void tells whether the destination knew any of the pages.
func (t *Table) void(space int32, page, n uint64) bool {
	if page >= maxPage {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pages.drop(space, page, min(n, maxPage-page), t.release)
}

// release counts one page less for the slot of an entry. The caller holds t.mu.
func (t *Table) release(entry uint32) {
	if entry > entryZero {
		t.slots.release(entry - 1)
	}
}

// Stats counts from the table's beginning. While Encoders are at work the numbers may not match each other.
func (t *Table) Stats() Stats {
	c := &t.stats
	s := Stats{
		Zero: c.zero.Load(), Unchanged: c.unchanged.Load(), Duplicates: c.duplicates.Load(),
		Deltas: c.deltas.Load(), Data: c.data.Load(), Refused: c.refused.Load(), Bytes: c.bytes.Load(),
	}
	s.Pages = s.Zero + s.Unchanged + s.Duplicates + s.Deltas + s.Data + s.Refused
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Stored = int64(t.slots.next-1) * PageSize
	return s
}

// verdict is what to do about a page.
type verdict uint8

const (
	unchanged verdict = iota
	zero              // map it to slot 0
	duplicate         // map it to a slot that has its content
	rewritten         // put it where it is already mapped to
	added             // put it into a new slot and map it
	patched           // was rewritten, but a patch has been sent
)

// sample is a page on its way through a Table and an Encoder.
type sample struct {
	verdict verdict
	zero    bool
	sum     sum // unless zero
	slot    uint32
}

// settle decides for each of the pages from page, whose sums are in s, what to do about it, and notes it as done. It
// returns how many it has dealt with, which is fewer than all only together with ErrFull; the others are as they were.
func (t *Table) settle(space int32, page uint64, s []sample) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var c *chunk
	for i := range s {
		at := (page + uint64(i)) % chunkPages
		if c == nil || at == 0 {
			var err error
			if c, err = t.pages.grow(space, (page+uint64(i))/chunkPages); err != nil {
				return i, fmt.Errorf("%w: %w", ErrFull, err)
			}
		}
		if err := t.settleOne(c, at, &s[i]); err != nil {
			return i, err
		}
	}
	return len(s), nil
}

// errSlots is the ErrFull of slots.
var errSlots = fmt.Errorf("%w: %w", ErrFull, errors.New("no slot is free"))

func (t *Table) settleOne(c *chunk, at uint64, s *sample) error {
	old := c.entries[at]
	if s.zero {
		s.verdict, s.slot = zero, 0
		if old == entryZero {
			s.verdict = unchanged
		}
	} else if err := t.store(old, s); err != nil {
		return err
	}
	if s.verdict != unchanged && s.verdict != rewritten {
		c.set(at, s.slot+1)
		t.release(old)
	}
	return nil
}

// store finds a slot for a page that is not zero and has been at old.
func (t *Table) store(old uint32, s *sample) error {
	if old > entryZero && t.slots.sum(old-1) == s.sum {
		s.verdict, s.slot = unchanged, old-1
		return nil
	}
	if slot, ok := t.slots.find(s.sum); ok {
		t.slots.hold(slot)
		s.verdict, s.slot = duplicate, slot
		return nil
	}
	if old > entryZero && t.slots.rewritable(old-1) {
		t.slots.rewrite(old-1, s.sum)
		s.verdict, s.slot = rewritten, old-1
		return nil
	}
	slot, ok := t.slots.add(s.sum)
	if !ok {
		return errSlots
	}
	s.verdict, s.slot = added, slot
	return nil
}
