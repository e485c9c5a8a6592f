package pages

// Tags of an index's places. A place that is taken has a tag of tagFirst or more, which comes from the sum, so that most
// places of other sums are passed over without a look at their slot.
const (
	tagEmpty = 0
	tagGone  = 1 // taken once; a search goes on behind it
	tagFirst = 2
)

// minIndex is the smallest number of places, a power of two.
const minIndex = 1 << 10

// index finds slots by the sum of their content: a hash table with open addressing, since Go's maps take several times
// the memory. Sums themselves are elsewhere, by slot.
type index struct {
	tags  []uint8
	slots []uint32
	live  int // places taken
	gone  int // places with tagGone
}

func tagOf(s sum) uint8 { return tagFirst + uint8(s.hi%(256-tagFirst)) }

// find returns the slot with that sum. sumOf returns the sum of a slot's content.
func (x *index) find(s sum, sumOf func(slot uint32) sum) (slot uint32, ok bool) {
	if at := x.place(s, sumOf); at >= 0 {
		return x.slots[at], true
	}
	return 0, false
}

func (x *index) place(s sum, sumOf func(slot uint32) sum) int {
	if x.live == 0 {
		return -1
	}
	mask, tag := uint64(len(x.tags)-1), tagOf(s)
	for at := s.lo & mask; x.tags[at] != tagEmpty; at = (at + 1) & mask {
		if x.tags[at] == tag && sumOf(x.slots[at]) == s {
			return int(at)
		}
	}
	return -1
}

// crowded tells whether the index must be rebuilt before anything is added: a search must soon meet an empty place.
func (x *index) crowded() bool { return (x.live+x.gone+1)*4 > len(x.tags)*3 }

// rebuild makes an empty index with room for n slots. It keeps its size where that is right, and grows by doubling.
func (x *index) rebuild(n int) {
	size := minIndex
	for size*9 < n*16 { // at most 9/16 full afterwards, so that the next time is far
		size *= 2
	}
	*x = index{tags: make([]uint8, size), slots: make([]uint32, size)}
}

// add enters a slot whose sum is not yet there, into an index that is not crowded.
func (x *index) add(s sum, slot uint32) {
	mask := uint64(len(x.tags) - 1)
	at := s.lo & mask
	for x.tags[at] >= tagFirst {
		at = (at + 1) & mask
	}
	if x.tags[at] == tagGone {
		x.gone--
	}
	x.tags[at], x.slots[at] = tagOf(s), slot
	x.live++
}

// remove takes out the slot with that sum.
func (x *index) remove(s sum, sumOf func(slot uint32) sum) {
	at := x.place(s, sumOf)
	if at < 0 {
		return
	}
	mask := len(x.tags) - 1
	x.tags[at] = tagGone
	x.live--
	x.gone++
	// before an empty place nothing needs to be passed over
	for x.tags[(at+1)&mask] == tagEmpty && x.tags[at] == tagGone {
		x.tags[at] = tagEmpty
		x.gone--
		at = (at - 1) & mask
	}
}
