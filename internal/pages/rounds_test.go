package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
)

const (
	modelSpaces = 5
	modelPages  = 700 // of each space
	modelBlock  = 50  // pages that go to the same encoder
	modelLimit  = modelSpaces * modelPages * 2
)

// place is a page of a space.
type place struct {
	space int32
	page  uint64
}

// model is what the destination should have, and what one source might do to it.
type model struct {
	r       *rand.Rand
	pages   map[place][]byte
	content uint64 // of new pages
}

// op is one call of an encoder.
type op struct {
	space   int32
	page, n uint64
	content []byte // nil: drop
}

// spaceBase keeps page numbers of the spaces apart, and some beyond 32 bits.
func spaceBase(space int32) uint64 { return uint64(space+2) * 0x7_3456_7891 }

// round changes the model at random and returns the calls that tell, by encoder.
func (m *model) round(encoders int) [][]op {
	all := make([][]op, encoders)
	for range 40 {
		space := int32(m.r.IntN(modelSpaces)) - 2
		block := m.r.IntN(modelPages / modelBlock)
		page := uint64(block*modelBlock + m.r.IntN(modelBlock))
		n := 1 + m.r.Uint64N(uint64((block+1)*modelBlock)-page)
		o := op{space: space, page: spaceBase(space) + page, n: n}
		if m.r.IntN(6) > 0 {
			o.content = m.write(o)
		}
		m.apply(o)
		at := (block + int(space+2)) % encoders
		all[at] = append(all[at], o)
	}
	return all
}

// resets forgets whole spaces, which one encoder must say before others send anything of them: a round of its own.
func (m *model) resets() []op {
	o := op{space: int32(m.r.IntN(modelSpaces)) - 2, n: maxPage}
	m.apply(o)
	return []op{{space: o.space}}
}

func (m *model) apply(o op) {
	for p := range m.pages {
		if o.content == nil && p.space == o.space && p.page >= o.page && p.page-o.page < o.n {
			delete(m.pages, p)
		}
	}
	for i := 0; i < len(o.content); i += PageSize {
		m.pages[place{o.space, o.page + uint64(i/PageSize)}] = o.content[i : i+PageSize]
	}
}

// write makes new content for pages: zeros, what it was, what others have, a small change, or all new.
func (m *model) write(o op) []byte {
	var out []byte
	kind := m.r.IntN(6)
	for i := range o.n {
		if m.r.IntN(5) == 0 {
			kind = m.r.IntN(6)
		}
		p := make([]byte, PageSize)
		old := m.pages[place{o.space, o.page + i}]
		switch {
		case kind == 0:
		case kind == 1 && old != nil:
			copy(p, old)
		case kind == 2: // one of a few that recur
			copy(p, page(m.r.Uint64N(20)))
		case kind <= 4 && old != nil:
			copy(p, old)
			for range 1 + m.r.IntN(20) {
				p[m.r.IntN(PageSize)]++
			}
		default:
			m.content++
			copy(p, page(1<<40+m.content))
		}
		out = append(out, p...)
	}
	return out
}

// encode runs one encoder for each list of calls at the same time, and returns the streams.
func encode(t *testing.T, table *Table, calls [][]op) [][]byte {
	t.Helper()
	table.BeginRound()
	streams := make([]bytes.Buffer, len(calls))
	errs := make([]error, len(calls))
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			e := NewEncoder(table, &streams[i])
			for _, o := range calls[i] {
				if o.content == nil {
					errs[i] = errors.Join(errs[i], e.Drop(o.space, o.page, o.n))
				} else {
					errs[i] = errors.Join(errs[i], e.Pages(o.space, o.page, o.content))
				}
			}
			errs[i] = errors.Join(errs[i], e.Close())
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	out := make([][]byte, len(calls))
	for i := range streams {
		out[i] = streams[i].Bytes()
	}
	return out
}

// apply applies the streams of a round at the same time, each cut at random.
func apply(t *testing.T, s *Store, streams [][]byte, seed uint64) {
	t.Helper()
	errs := make([]error, len(streams))
	var wg sync.WaitGroup
	for i, stream := range streams {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			var in io.Reader = bytes.NewReader(stream)
			if r.IntN(3) > 0 {
				most := 1 + r.IntN(100_000)
				in = &trickle{in, func() int { return 1 + r.IntN(most) }}
			}
			errs[i] = s.Apply(in)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// onceARound fails when streams of one round write a slot twice.
func onceARound(t *testing.T, streams [][]byte) {
	t.Helper()
	written := map[uint32]bool{}
	write := func(slot uint32, n int) {
		for i := range n {
			if written[slot+uint32(i)] {
				t.Errorf("slot %d is written twice in a round", slot+uint32(i))
			}
			written[slot+uint32(i)] = true
		}
	}
	for _, stream := range streams {
		for _, record := range summary(t, stream) {
			var slot uint32
			var n int
			if got, _ := fmt.Sscanf(record, "data %d+%d", &slot, &n); got == 2 {
				write(slot, n)
			} else if got, _ := fmt.Sscanf(record, "delta %d", &slot); got == 1 {
				write(slot, 1)
			}
		}
	}
}

func TestRandomRounds(t *testing.T) {
	seeds, rounds := uint64(6), 25
	if testing.Short() {
		seeds = 2
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			cache := int64(seed%3) * (4 << 20) / 2 // none, less than there are pages, and about all
			l := newLink(t, modelLimit*PageSize, cache)
			m := &model{r: rand.New(rand.NewPCG(seed, 7)), pages: map[place][]byte{}}
			for round := range rounds {
				var calls [][]op
				if round%8 == 7 {
					calls = [][]op{m.resets()}
				} else {
					calls = m.round(1 + m.r.IntN(4))
				}
				streams := encode(t, l.table, calls)
				onceARound(t, streams)
				m.r.Shuffle(len(streams), func(i, j int) { streams[i], streams[j] = streams[j], streams[i] })
				apply(t, l.store, streams, seed)
				m.compare(l)
				checkBooks(t, l.table)
				checkBounds(t, l.store)
				if t.Failed() {
					t.Fatalf("failed in round %d", round)
				}
			}
			s := l.table.Stats()
			t.Logf("%+v", s)
			for name, n := range map[string]uint64{"zero": s.Zero, "unchanged": s.Unchanged, "duplicates": s.Duplicates, "data": s.Data} {
				if n == 0 {
					t.Errorf("there were no %s pages", name)
				}
			}
			if (s.Deltas > 0) != (cache > 0) || s.Refused > 0 {
				t.Errorf("%d patches, %d refused", s.Deltas, s.Refused)
			}
			if most := int64(modelSpaces*modelPages*PageSize) * 3 / 2; s.Stored > most || l.store.Bytes() != s.Stored {
				t.Errorf("store takes %d bytes, table says %d: slots are not used again", l.store.Bytes(), s.Stored)
			}
		})
	}
}

// compare holds both sides against the model, page by page and by extents.
func (m *model) compare(l *link) {
	l.t.Helper()
	for space := int32(-2); space < modelSpaces-2; space++ {
		base := spaceBase(space)
		next := base
		l.store.Extents(space, base, modelPages, func(page uint64, n, slot uint32, ok bool) bool {
			if page != next || n == 0 {
				l.t.Errorf("extent of %d pages at %#x, want one at %#x", n, page, next)
			}
			next = page + uint64(n)
			for i := range n {
				got, known := l.store.Lookup(space, page+uint64(i))
				want := slot
				if slot != 0 {
					want += i
				}
				if known != ok || got != want {
					l.t.Errorf("page %#x is in slot %d, %v, its extent says %d, %v", page+uint64(i), got, known, want, ok)
				}
			}
			return true
		})
		if next != base+modelPages {
			l.t.Errorf("extents end at %#x", next)
		}
		for page := base; page < base+modelPages; page++ {
			l.want(space, page, m.pages[place{space, page}])
		}
	}
}

// checkBooks fails when a table's parts contradict each other.
func checkBooks(t *testing.T, table *Table) {
	t.Helper()
	s := table.slots
	refs := map[uint32]uint32{}
	for _, m := range table.pages.spaces {
		for _, c := range m {
			for _, entry := range c.entries {
				if entry > entryZero {
					refs[entry-1]++
				}
			}
		}
	}
	for slot := uint32(1); slot < s.next; slot++ {
		if got := *s.refs(slot); got != refs[slot] {
			t.Errorf("slot %d counts %d pages, has %d", slot, got, refs[slot])
		}
		found, ok := s.find(s.sum(slot))
		free := s.free.has(slot) || s.freed.has(slot)
		if live := refs[slot] > 0; live == free || live && (!ok || found != slot) {
			t.Errorf("slot %d has %d pages, free %v, found as %d, %v", slot, refs[slot], free, found, ok)
		}
	}
	if s.index.live != len(refs) {
		t.Errorf("index has %d slots, %d are in use", s.index.live, len(refs))
	}
}

// What goes wrong within a round must not be hidden by the order: streams applied one by one, in either order, come to
// the same.
func TestOrderWithinARound(t *testing.T) {
	m := &model{r: rand.New(rand.NewPCG(42, 7)), pages: map[place][]byte{}}
	table := NewTable(modelLimit*PageSize, 1<<20)
	forth, back := newTestStore(t, modelLimit*PageSize), newTestStore(t, modelLimit*PageSize)
	for range 12 {
		streams := encode(t, table, m.round(3))
		for i := range streams {
			if err := forth.Apply(bytes.NewReader(streams[i])); err != nil {
				t.Fatal(err)
			}
			if err := back.Apply(bytes.NewReader(streams[len(streams)-1-i])); err != nil {
				t.Fatal(err)
			}
		}
		checkSame(t, forth, back)
	}
	m.compare(&link{t: t, table: table, store: back})
}

// Workers that send the same content at the same time store it once.
func TestWorkersShareContent(t *testing.T) {
	l := newLink(t, 1<<24, 0)
	var content []byte
	for i := range uint64(300) {
		content = append(content, page(i+1)...)
	}
	var calls [][]op
	for i := range int32(4) {
		calls = append(calls, []op{{space: i, page: 5, content: content}})
	}
	apply(t, l.store, encode(t, l.table, calls), 1)
	for i := range int32(4) {
		for n := range uint64(300) {
			l.want(i, 5+n, content[n*PageSize:(n+1)*PageSize])
		}
	}
	if s := l.table.Stats(); s.Data != 300 || s.Duplicates != 900 || l.store.Bytes() != 300*PageSize {
		t.Errorf("stats are %+v", s)
	}
}

// The table's own memory is a small part of what it describes.
func TestTableIsCompact(t *testing.T) {
	const n = 200_000
	s, m := newSlots(n), newPageMap(n, 1)
	r := rand.New(rand.NewPCG(3, 4))
	for i := range uint64(n) {
		slot, ok := s.add(sum{r.Uint64(), r.Uint64()})
		if !ok {
			t.Fatal("no slot is free")
		}
		if err := m.mapRun(mapRun{1, i, 1, slot}); err != nil {
			t.Fatal(err)
		}
	}
	size := len(s.slabs)*binary.Size(slab{}) + (len(s.free)+len(s.freed)+len(s.written))*8
	size += len(s.index.tags) + 4*len(s.index.slots)
	size += m.chunks * (chunkPages*4 + 8 + 24) // and about as much of the map for each chunk
	if perPage := float64(size) / n; perPage > 40 {
		t.Errorf("%.1f bytes a page", perPage)
	}
}
