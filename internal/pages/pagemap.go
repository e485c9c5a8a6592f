package pages

import (
	"maps"
	"math"
	"slices"
)

// chunkPages is how many consecutive pages share a piece of table. Memory is mostly dense, but a container of many
// processes has a few pages in each of many libraries; 128 keeps those cheap as well.
const chunkPages = 128

// Entries of a chunk: what is known about a page.
const (
	entryNone = 0 // nothing
	entryZero = 1 // it is all zeros; an entry above is the slot's number plus one
)

// chunk is what is known about pages i*chunkPages to (i+1)*chunkPages-1 of a space.
type chunk struct {
	entries [chunkPages]uint32
	used    int32 // entries that are not entryNone
}

func (c *chunk) set(i uint64, entry uint32) {
	if c.entries[i] == entryNone {
		c.used++
	}
	if entry == entryNone {
		c.used--
	}
	c.entries[i] = entry
}

// pageMap tells for the pages of all spaces in which slots they are. Source and destination have one each, which are
// equal between rounds. It is not safe for concurrent use.
//
// Its own size is bounded, since a page of zeros or one more copy of another page takes no slot: chunks, and so bytes
// (about 600 a chunk), and spaces.
type pageMap struct {
	spaces    map[int32]map[uint64]*chunk // by space and page/chunkPages
	chunks    int
	maxChunks int
	maxSpaces int
}

// slotCount is how many slots fit into limit bytes; they are numbered from 1.
func slotCount(limit int64) uint32 {
	return uint32(min(max(limit, 0)/PageSize, math.MaxUint32-1))
}

// newPageMap makes a map beside a store of that many slots. slack multiplies what it may take: records of a round come
// in any order, so that the destination may have to hold pages that are to be dropped beside those that take their place.
func newPageMap(slots uint32, slack int) *pageMap {
	return &pageMap{
		spaces:    map[int32]map[uint64]*chunk{},
		maxChunks: slack * (1<<16 + int(slots/16)),
		maxSpaces: slack << 15,
	}
}

func (m *pageMap) get(space int32, page uint64) uint32 {
	if c := m.spaces[space][page/chunkPages]; c != nil {
		return c.entries[page%chunkPages]
	}
	return entryNone
}

// grow returns a chunk and makes it where it is missing; it may return a *LimitError.
func (m *pageMap) grow(space int32, index uint64) (*chunk, error) {
	s := m.spaces[space]
	if c := s[index]; c != nil {
		return c, nil
	}
	if s == nil && len(m.spaces) >= m.maxSpaces {
		return nil, &LimitError{What: "number of spaces", Got: uint64(len(m.spaces)) + 1, Max: uint64(m.maxSpaces)}
	}
	if m.chunks >= m.maxChunks {
		return nil, &LimitError{What: "size of page tables", Got: uint64(m.chunks) + 1, Max: uint64(m.maxChunks)}
	}
	if s == nil {
		s = map[uint64]*chunk{}
		m.spaces[space] = s
	}
	c := new(chunk)
	s[index] = c
	m.chunks++
	return c, nil
}

// mapRun notes where pages are.
func (m *pageMap) mapRun(r mapRun) error {
	entry, step := r.slot+1, uint32(1)
	if r.slot == 0 {
		entry, step = entryZero, 0
	}
	for page, end := r.page, r.page+uint64(r.n); page < end; {
		c, err := m.grow(r.space, page/chunkPages)
		if err != nil {
			return err
		}
		stop := min(end, (page/chunkPages+1)*chunkPages)
		for ; page < stop; page++ {
			c.set(page%chunkPages, entry)
			entry += step
		}
	}
	return nil
}

// drop forgets pages of a space. gone, which may be nil, is called with each entry; drop tells whether there was any.
func (m *pageMap) drop(space int32, page, n uint64, gone func(entry uint32)) bool {
	s, any := m.spaces[space], false
	for _, index := range chunksWithin(s, page, n) {
		c := s[index]
		from, to := overlap(index, page, n)
		for i := from; i < to; i++ {
			if c.entries[i] == entryNone {
				continue
			}
			any = true
			if gone != nil {
				gone(c.entries[i])
			}
			c.set(i, entryNone)
		}
		if c.used == 0 {
			delete(s, index)
			m.chunks--
		}
	}
	if s != nil && len(s) == 0 {
		delete(m.spaces, space)
	}
	return any
}

// overlap is the part of a chunk that lies among n pages from page, in pages from the chunk's first.
func overlap(index, page, n uint64) (from, to uint64) {
	first := index * chunkPages
	return max(page, first) - first, min(page+n, first+chunkPages) - first
}

// chunksWithin lists in ascending order the chunks that have some of n pages from page. A range may be the whole address
// space and hold next to nothing, so that it takes the shorter way: through the range, or through the space.
func chunksWithin(s map[uint64]*chunk, page, n uint64) []uint64 {
	if n == 0 || len(s) == 0 {
		return nil
	}
	first, last := page/chunkPages, (page+n-1)/chunkPages
	var found []uint64
	if last-first < uint64(len(s)) {
		for i := first; i <= last; i++ {
			if s[i] != nil {
				found = append(found, i)
			}
		}
		return found
	}
	for i := range maps.Keys(s) {
		if first <= i && i <= last {
			found = append(found, i)
		}
	}
	slices.Sort(found)
	return found
}
