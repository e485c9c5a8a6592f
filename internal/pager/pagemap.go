package pager

import (
	"math/bits"
	"sort"
	"sync/atomic"
)

// source is where the content of consecutive pages is: in slots from first on, or, if they are remote, at that index and those
// that follow among the remote pages of the family.
type source struct {
	first  uint32
	remote bool
}

// extent is a run of pages at its present address.
type extent struct {
	addr   uint64
	pages  uint32
	bit    uint32 // of the first page in done; moving an extent does not change it
	source source
}

func (e extent) end() uint64 { return e.addr + uint64(e.pages)*pageSize }

// part is what [start, end), which must lie within, has of e.
func (e extent) part(start, end uint64) extent {
	skip := uint32((start - e.addr) / pageSize)
	return extent{start, uint32((end - start) / pageSize), e.bit + skip, source{e.source.first + skip, e.source.remote}}
}

// pageMap knows the missing pages of one address space.
//
// Looking and finishing may go on at the same time in several goroutines; moving and copying need the map alone.
type pageMap struct {
	ext  []extent // ascending, disjoint; never changed in place, since the maps of forked children share it
	done []uint64 // a bit for each page that is not missing any more
	left atomic.Int64
}

// newPageMap takes over ext, whose bits must be 0, 1, 2 and so on.
func newPageMap(ext []extent) *pageMap {
	m := &pageMap{ext: ext}
	var pages uint64
	for _, e := range ext {
		pages += uint64(e.pages)
	}
	m.done = make([]uint64, (pages+63)/64)
	m.left.Store(int64(pages))
	return m
}

// copy is an independent map with the same content.
func (m *pageMap) copy() *pageMap {
	c := &pageMap{ext: m.ext, done: append([]uint64(nil), m.done...)}
	c.left.Store(m.left.Load())
	return c
}

// at is the index of the first extent that ends after addr.
func (m *pageMap) at(addr uint64) int {
	return sort.Search(len(m.ext), func(i int) bool { return m.ext[i].end() > addr })
}

func (m *pageMap) missing(bit uint32) bool {
	return atomic.LoadUint64(&m.done[bit/64])&(1<<(bit%64)) == 0
}

// find tells where the content of the page at addr is; false: it is not missing, or not known.
func (m *pageMap) find(addr uint64) (source, bool) {
	i := m.at(addr)
	if i == len(m.ext) || m.ext[i].addr > addr {
		return source{}, false
	}
	e := m.ext[i].part(addr, addr+pageSize)
	return e.source, m.missing(e.bit)
}

// run is consecutive missing pages whose content is on this host.
type run struct {
	addr  uint64
	slots []uint32
	zero  bool // all slots are ZeroSlot; else none is
}

func (r run) end() uint64 { return r.addr + uint64(len(r.slots))*pageSize }

// next looks in [from, to) for the first run of at most most pages. slot gives the slot of a remote page, false if it is not here; it
// is nil when none is.
// The run's slots are kept in buf.
func (m *pageMap) next(from, to uint64, most int, slot func(source) (uint32, bool), buf []uint32) (run, bool) {
	r := run{slots: buf[:0]}
	for i := m.at(from); i < len(m.ext) && m.ext[i].addr < to; i++ {
		if m.ext[i].source.remote && slot == nil {
			continue
		}
		e := m.ext[i].part(max(from, m.ext[i].addr), min(to, m.ext[i].end()))
		for p := uint32(0); p < e.pages; p++ {
			if p += m.skip(e.bit+p, e.pages-p); p == e.pages {
				break
			}
			addr := e.addr + uint64(p)*pageSize
			s, ok := e.source.first+p, true
			if e.source.remote {
				s, ok = slot(source{s, true})
			}
			fits := ok && (len(r.slots) == 0 || addr == r.end() && (s == ZeroSlot) == r.zero)
			switch {
			case fits && len(r.slots) == 0:
				r.addr, r.zero = addr, s == ZeroSlot
			case !fits && len(r.slots) > 0:
				return r, true
			case !fits:
				continue
			}
			if r.slots = append(r.slots, s); len(r.slots) == most {
				return r, true
			}
		}
	}
	return r, len(r.slots) > 0
}

// skip counts, at bit, the pages of at most n that are not missing.
func (m *pageMap) skip(bit, n uint32) uint32 {
	var k uint32
	for k < n {
		word := atomic.LoadUint64(&m.done[(bit+k)/64]) >> ((bit + k) % 64)
		ones := uint32(bits.TrailingZeros64(^word))
		if k += ones; ones == 0 || (bit+k)%64 != 0 {
			break
		}
	}
	return min(k, n)
}

// still counts the pages at addr, of at most n, that are missing one after the other.
func (m *pageMap) still(addr uint64, n int) int {
	i, k := m.at(addr), 0
	for ; i < len(m.ext) && k < n; i++ {
		at := addr + uint64(k)*pageSize
		if m.ext[i].addr > at {
			break
		}
		e := m.ext[i].part(at, m.ext[i].end())
		for p := uint32(0); p < e.pages && k < n; p++ {
			if !m.missing(e.bit + p) {
				return k
			}
			k++
		}
	}
	return k
}

// finish takes [start, end) out of the map, and tells of which sources pages were in it. It returns how many there were.
func (m *pageMap) finish(start, end uint64, gone func(source, uint32)) int {
	total := 0
	for i := m.at(start); i < len(m.ext) && m.ext[i].addr < end; i++ {
		e := m.ext[i].part(max(start, m.ext[i].addr), min(end, m.ext[i].end()))
		var n uint32 // pages of the run that ends before p
		for p := uint32(0); p < e.pages; p++ {
			bit := e.bit + p
			mask := uint64(1) << (bit % 64)
			if atomic.OrUint64(&m.done[bit/64], mask)&mask == 0 {
				n++
				total++
				continue
			}
			if n > 0 {
				gone(source{e.source.first + p - n, e.source.remote}, n)
				n = 0
			}
		}
		if n > 0 {
			gone(source{e.source.first + e.pages - n, e.source.remote}, n)
		}
	}
	m.left.Add(-int64(total))
	return total
}

// each tells the sources of all missing pages.
func (m *pageMap) each(f func(source, uint32)) {
	for _, e := range m.ext {
		for p := uint32(0); p < e.pages; {
			if p += m.skip(e.bit+p, e.pages-p); p == e.pages {
				break
			}
			n := uint32(1)
			for p+n < e.pages && m.missing(e.bit+p+n) {
				n++
			}
			f(source{e.source.first + p, e.source.remote}, n)
			p += n
		}
	}
}

// move takes the n bytes at from to to. What was at to leaves the map first, and gone is told as by finish.
func (m *pageMap) move(from, to, n uint64, gone func(source, uint32)) {
	rest := make([]extent, 0, len(m.ext)+4)
	var moved []extent
	for _, e := range m.ext {
		rest = appendOutside(rest, e, from, from+n)
		if start, end := max(e.addr, from), min(e.end(), from+n); start < end {
			p := e.part(start, end)
			p.addr = start - from + to
			moved = append(moved, p)
		}
	}
	m.ext = rest
	m.finish(to, to+n, gone)
	next := make([]extent, 0, len(rest)+len(moved)+2)
	for _, e := range rest {
		next = appendOutside(next, e, to, maxAddr)
	}
	next = append(next, moved...)
	for _, e := range rest {
		next = appendOutside(next, e, 0, to+n)
	}
	m.ext = next
}

// appendOutside appends what e has outside of [start, end).
func appendOutside(to []extent, e extent, start, end uint64) []extent {
	if e.addr < start {
		to = append(to, e.part(e.addr, min(e.end(), start)))
	}
	if e.end() > end {
		to = append(to, e.part(max(e.addr, end), e.end()))
	}
	return to
}
