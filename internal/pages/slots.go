package pages

import (
	"math"
	"math/bits"
)

// slabSlots is how many slots' descriptions are allocated at once: tables grow without being copied.
const slabSlots = 4096

// slab describes slots. Apart from each other, sums and counts take 20 bytes a slot.
type slab struct {
	sums [slabSlots]sum
	refs [slabSlots]uint32 // pages that map the slot, at most uncounted
}

// uncounted is a count of pages that has run over and stays: the slot is never free again, which is harmless.
const uncounted = math.MaxUint32

// bitmap has one bit a slot.
type bitmap []uint64

func (b bitmap) has(slot uint32) bool { return b[slot/64]&(1<<(slot%64)) != 0 }
func (b bitmap) set(slot uint32)      { b[slot/64] |= 1 << (slot % 64) }
func (b bitmap) unset(slot uint32)    { b[slot/64] &^= 1 << (slot % 64) }

// slots is what the source knows of the destination's slots: what they hold, how many pages map them, and which are free.
// It is not safe for concurrent use.
type slots struct {
	slabs   []*slab
	next    uint32 // slots from here on were never used
	limit   uint32 // highest slot
	free    bitmap // may be taken
	freed   bitmap // may be taken from the next round on
	written bitmap // in this round
	cursor  int    // words of free before it are empty
	index   index
}

func newSlots(limit uint32) *slots { return &slots{next: 1, limit: limit} }

func (s *slots) sum(slot uint32) sum { return s.slabs[slot/slabSlots].sums[slot%slabSlots] }

func (s *slots) refs(slot uint32) *uint32 { return &s.slabs[slot/slabSlots].refs[slot%slabSlots] }

// find returns the slot that holds, or will at the end of the round, content with that sum.
func (s *slots) find(want sum) (slot uint32, ok bool) { return s.index.find(want, s.sum) }

// hold counts one more page that maps the slot.
func (s *slots) hold(slot uint32) {
	if refs := s.refs(slot); *refs != uncounted {
		*refs++
	}
}

// release counts one page less. The slot that nothing maps is free from the next round on.
func (s *slots) release(slot uint32) {
	refs := s.refs(slot)
	if *refs == uncounted {
		return
	}
	if *refs--; *refs == 0 {
		s.index.remove(s.sum(slot), s.sum)
		s.freed.set(slot)
	}
}

// add takes a free slot for content that is in no other, mapped by one page; ok is false when there is none. Free slots
// come in ascending order, so that pages that follow each other are mostly stored one after another.
func (s *slots) add(content sum) (slot uint32, ok bool) {
	for s.cursor < len(s.free) && s.free[s.cursor] == 0 {
		s.cursor++
	}
	switch {
	case s.cursor < len(s.free):
		slot = uint32(s.cursor*64 + bits.TrailingZeros64(s.free[s.cursor]))
		s.free.unset(slot)
	case s.next > s.limit:
		return 0, false
	default:
		slot = s.next
		s.next++
		s.reach(slot)
	}
	*s.refs(slot) = 1
	s.write(slot, content)
	return slot, true
}

// reach makes the tables long enough for slot.
func (s *slots) reach(slot uint32) {
	for int(slot/slabSlots) >= len(s.slabs) {
		s.slabs = append(s.slabs, new(slab))
	}
	for int(slot/64) >= len(s.free) {
		s.free, s.freed, s.written = append(s.free, 0), append(s.freed, 0), append(s.written, 0)
	}
}

// rewritable tells whether the only page that maps the slot may put new content there within this round.
func (s *slots) rewritable(slot uint32) bool { return *s.refs(slot) == 1 && !s.written.has(slot) }

// rewrite notes that a rewritable slot gets new content, which is in no other.
func (s *slots) rewrite(slot uint32, content sum) {
	s.index.remove(s.sum(slot), s.sum)
	s.write(slot, content)
}

func (s *slots) write(slot uint32, content sum) {
	if s.index.crowded() {
		s.reindex(slot)
	}
	s.slabs[slot/slabSlots].sums[slot%slabSlots] = content
	s.index.add(content, slot)
	s.written.set(slot)
}

// reindex makes the index anew with room to spare, without slot but, which is about to be added.
func (s *slots) reindex(but uint32) {
	s.index.rebuild(s.index.live + 1)
	for slot := uint32(1); slot < s.next; slot++ {
		if slot != but && *s.refs(slot) > 0 {
			s.index.add(s.sum(slot), slot)
		}
	}
}

// beginRound makes slots that were freed before free to take.
func (s *slots) beginRound() {
	for i := range s.freed {
		s.free[i] |= s.freed[i]
	}
	clear(s.freed)
	clear(s.written)
	s.cursor = 0
}
