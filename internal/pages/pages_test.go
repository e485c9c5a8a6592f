package pages

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

func wantRecords(t *testing.T, stream []byte, want ...string) {
	t.Helper()
	want = append(want, "end")
	if got := summary(t, stream); !slices.Equal(got, want) {
		t.Errorf("the stream has\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestNewPages(t *testing.T) {
	l := newLink(t, testLimit, 0)
	a, b, zeros := page(1), page(2), make([]byte, PageSize)
	stream := l.pages(7, 0x100, a, b, zeros, zeros, page(3))
	wantRecords(t, stream, "map 7:0x100+2 to 1", "map 7:0x102+2 to 0", "data 1+3", "map 7:0x104+1 to 3")
	l.want(7, 0xff, nil)
	l.want(7, 0x100, a)
	l.want(7, 0x101, b)
	l.want(7, 0x103, zeros)
	l.want(7, 0x104, page(3))
	l.want(8, 0x100, nil)
	if got := l.store.Bytes(); got != 3*PageSize {
		t.Errorf("store takes %d bytes, want three pages", got)
	}
	s := l.table.Stats()
	if s.Pages != 5 || s.Zero != 2 || s.Data != 3 || s.Bytes != uint64(len(stream)) || s.Stored != l.store.Bytes() {
		t.Errorf("stats are %+v", s)
	}
}

func TestUnchangedAndDuplicatePages(t *testing.T) {
	l := newLink(t, testLimit, 0)
	a, b, zeros := page(1), page(2), make([]byte, PageSize)
	l.pages(7, 0, a, b, a, zeros)
	wantRecords(t, l.pages(7, 0, a, b, a, zeros))
	wantRecords(t, l.pages(-3, 9, b, a), "map -3:0x9+1 to 2", "map -3:0xa+1 to 1")
	l.want(7, 2, a)
	l.want(-3, 9, b)
	l.want(-3, 10, a)
	if got := l.store.Spaces(); !slices.Equal(got, []int32{-3, 7}) {
		t.Errorf("spaces are %v", got)
	}
	if s := l.table.Stats(); s.Unchanged != 4 || s.Duplicates != 3 || s.Data != 2 || s.Zero != 1 || s.Pages != 10 {
		t.Errorf("stats are %+v", s)
	}
}

func TestPageOfItsOwnIsWrittenOver(t *testing.T) {
	l := newLink(t, testLimit, 0)
	l.pages(7, 0, page(1), page(2))
	wantRecords(t, l.pages(7, 0, page(3), page(4)), "data 1+2")
	l.want(7, 0, page(3))
	l.want(7, 1, page(4))
}

func TestSharedPageMovesAway(t *testing.T) {
	l := newLink(t, testLimit, 0)
	l.pages(7, 0, page(1))
	l.pages(8, 0, page(1))
	wantRecords(t, l.pages(7, 0, page(2)), "data 2+1", "map 7:0x0+1 to 2")
	l.want(7, 0, page(2))
	l.want(8, 0, page(1))
}

// Streams of a round come in any order, so that a slot must not be written twice within it, nor be taken when it has
// just become free.
func TestSlotsWithinARound(t *testing.T) {
	l := newLink(t, testLimit, 0)
	stream := l.round(func(e *Encoder) error {
		return errors.Join(e.Pages(7, 0, page(1)), e.Pages(7, 0, page(2)), e.Pages(7, 0, page(3)))
	})
	got := summary(t, stream)
	for _, want := range []string{"data 1+1", "data 2+1", "data 3+1"} {
		if !slices.Contains(got, want) {
			t.Errorf("the stream has %v, without %q", got, want)
		}
	}
	l.want(7, 0, page(3))
	l.pages(7, 1, page(4), page(5), page(6))
	l.want(7, 0, page(3))
	l.want(7, 2, page(5))
	if got := l.store.Bytes(); got != 4*PageSize {
		t.Errorf("store takes %d bytes: slots that were free before are not used again", got)
	}
}

func TestDrop(t *testing.T) {
	l := newLink(t, testLimit, 0)
	l.pages(7, 0, page(1), page(2), page(3))
	l.pages(8, 1<<40, page(4))
	stream := l.round(func(e *Encoder) error { return errors.Join(e.Drop(7, 1, 1), e.Drop(7, 100, 5), e.Drop(9, 0, 0)) })
	wantRecords(t, stream, "drop 7:0x1+1")
	l.want(7, 0, page(1))
	l.want(7, 1, nil)
	l.want(7, 2, page(3))

	stream = l.round(func(e *Encoder) error {
		return errors.Join(e.Drop(7, 0, 0), e.Pages(7, 2, page(5)), e.Drop(8, 0, maxPage))
	})
	wantRecords(t, stream, "drop 7:0x0+0", "data 2+1", "map 7:0x2+1 to 2", fmt.Sprintf("drop 8:0x0+%d", uint64(maxPage)))
	l.want(7, 0, nil)
	l.want(7, 2, page(5))
	l.want(8, 1<<40, nil)
	if got := l.store.Spaces(); !slices.Equal(got, []int32{7}) {
		t.Errorf("spaces are %v", got)
	}
}

// What is mapped and dropped within one stream must be gone.
func TestDropAfterPages(t *testing.T) {
	l := newLink(t, testLimit, 0)
	l.round(func(e *Encoder) error {
		return errors.Join(e.Pages(7, 0, page(1)), e.Drop(7, 0, 1), e.Pages(7, 1, page(2)))
	})
	l.want(7, 0, nil)
	l.want(7, 1, page(2))
}

func TestVoidAndReset(t *testing.T) {
	table := NewTable(testLimit, 0)
	e := NewEncoder(table, io.Discard)
	if err := e.Pages(7, 10, join(page(1), page(2), page(3))); err != nil {
		t.Fatal(err)
	}
	table.Void(7, 11, 1)
	if !table.Has(7, 10) || table.Has(7, 11) || !table.Has(7, 12) {
		t.Error("not page 11 alone is void")
	}
	table.Void(7, maxPage-1, 1<<63) // beyond the end
	table.Void(7, 1<<63, 1)
	table.Reset(7)
	if table.Has(7, 10) || table.Has(7, 12) {
		t.Error("pages are left")
	}
	if len(table.pages.spaces) != 0 || table.pages.chunks != 0 {
		t.Errorf("%d spaces and %d chunks are left", len(table.pages.spaces), table.pages.chunks)
	}
}

func TestDelta(t *testing.T) {
	l := newLink(t, testLimit, 1<<20)
	a := page(1)
	l.pages(7, 0, a)
	change := func() []byte {
		a = bytes.Clone(a)
		a[100]++
		a[4095]++
		return a
	}
	wantRecords(t, l.pages(7, 0, change()), "data 1+1") // from now on a copy is kept
	early := a
	for range 3 {
		wantRecords(t, l.pages(7, 0, change()), "delta 1")
		l.want(7, 0, a)
	}
	// back to what it was: a patch goes from what was sent last
	a = early
	wantRecords(t, l.pages(7, 0, a), "delta 1")
	l.want(7, 0, a)
	wantRecords(t, l.pages(7, 0, change()), "delta 1")
	l.want(7, 0, a)
	// others come to have it: it must stay for them
	l.pages(8, 0, a)
	shared := a
	wantRecords(t, l.pages(7, 0, change()), "data 2+1", "map 7:0x0+1 to 2")
	l.want(7, 0, a)
	l.want(8, 0, shared)
	// another content is not worth a patch, but what comes after it is
	a = page(2)
	wantRecords(t, l.pages(7, 0, a), "data 2+1")
	wantRecords(t, l.pages(7, 0, change()), "delta 2")
	l.want(7, 0, a)
	if s := l.table.Stats(); s.Deltas != 6 || s.Data != 4 || s.Duplicates != 1 {
		t.Errorf("stats are %+v", s)
	}
}

// A slot that has become free and is taken again must not be patched from what it held before.
func TestDeltaForgets(t *testing.T) {
	l := newLink(t, testLimit, PageSize)
	l.pages(7, 0, page(1))
	l.pages(7, 0, page(2))
	l.round(func(e *Encoder) error { return e.Drop(7, 0, 1) })
	wantRecords(t, l.pages(8, 0, page(3)), "data 1+1", "map 8:0x0+1 to 1")
	b := page(2)
	b[0]++
	wantRecords(t, l.pages(8, 0, b), "data 1+1")
	l.want(8, 0, b)
}

// Slots that share a place in the cache do not drive each other out while the first is in use.
func TestDeltaCacheIsShared(t *testing.T) {
	l := newLink(t, testLimit, PageSize)
	a, b := page(1), page(2)
	l.pages(7, 0, a, b)
	deltas := func() uint64 { return l.table.Stats().Deltas }
	for range 4 {
		a[8]++
		b[8]++
		l.pages(7, 0, a, b)
	}
	if got := deltas(); got != 3 {
		t.Errorf("%d patches, want those of the first page", got)
	}
	for range 4 {
		b[8]++
		l.pages(7, 1, b)
	}
	if got := deltas(); got < 5 {
		t.Errorf("%d patches: the second page never took the place", got)
	}
	l.want(7, 0, a)
	l.want(7, 1, b)
}

// Runs do not go on in another space.
func TestRunsEndWithTheirSpace(t *testing.T) {
	l := newLink(t, testLimit, 0)
	stream := l.round(func(e *Encoder) error { return errors.Join(e.Pages(7, 0, page(1)), e.Pages(8, 1, page(2))) })
	wantRecords(t, stream, "data 1+1", "map 7:0x0+1 to 1", "data 2+1", "map 8:0x1+1 to 2")
	l.want(7, 1, nil)
	l.want(8, 1, page(2))
}

func TestFull(t *testing.T) {
	l := newLink(t, 4*PageSize, 0)
	l.round(func(e *Encoder) error {
		err := e.Pages(7, 0, join(page(1), page(2), page(3), page(4), page(5), page(6)))
		if !errors.Is(err, ErrFull) {
			t.Errorf("five pages fit into four slots: %v", err)
		}
		return e.Pages(8, 0, join(page(2), make([]byte, PageSize))) // takes no slot
	})
	l.want(7, 3, page(4))
	l.want(7, 4, nil)
	l.want(8, 0, page(2))
	l.want(8, 1, make([]byte, PageSize))
	if s := l.table.Stats(); s.Refused != 2 || s.Pages != 8 || s.Data != 4 {
		t.Errorf("stats are %+v", s)
	}
	if l.store.Bytes() != 4*PageSize {
		t.Errorf("store takes %d bytes", l.store.Bytes())
	}
	// a page that cannot be sent stays what it was, which only a drop tells
	l.round(func(e *Encoder) error {
		if err := e.Pages(7, 1, page(9)); !errors.Is(err, ErrFull) {
			t.Errorf("a shared page was written over: %v", err)
		}
		return nil
	})
	l.want(7, 1, page(2))
	l.round(func(e *Encoder) error { return e.Drop(7, 0, 1) })
	l.pages(7, 1, page(9))
	l.want(7, 1, page(9))
	l.want(8, 0, page(2))
}

func TestTablesAreBounded(t *testing.T) {
	zeros := make([]byte, PageSize)
	table := NewTable(testLimit, 0)
	table.pages.maxChunks, table.pages.maxSpaces = 3, 2
	e := NewEncoder(table, io.Discard)
	for i := range uint64(3) {
		if err := e.Pages(7, i*chunkPages, zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Pages(7, 3*chunkPages, zeros); !errors.Is(err, ErrFull) {
		t.Errorf("a fourth chunk: %v", err)
	}
	if err := errors.Join(e.Drop(7, chunkPages, 2*chunkPages), e.Pages(8, 0, zeros)); err != nil {
		t.Error(err)
	}
	if err := e.Pages(9, 0, zeros); !errors.Is(err, ErrFull) {
		t.Errorf("a third space: %v", err)
	}
}

func TestBadArguments(t *testing.T) {
	e := NewEncoder(NewTable(testLimit, 0), io.Discard)
	for name, err := range map[string]error{
		"half a page":         e.Pages(1, 0, make([]byte, 100)),
		"page beyond the end": e.Pages(1, maxPage, make([]byte, PageSize)),
		"end beyond the end":  e.Pages(1, maxPage-1, make([]byte, 2*PageSize)),
		"overflow":            e.Pages(1, 1<<64-1, make([]byte, 2*PageSize)),
		"drop from nowhere":   e.Drop(1, 5, 0),
		"drop beyond the end": e.Drop(1, 5, maxPage),
	} {
		if err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
	if err := e.Pages(1, maxPage-1, page(1)); err != nil {
		t.Errorf("the last page: %v", err)
	}
	if err := errors.Join(e.Close(), e.Close()); err != nil {
		t.Errorf("close twice: %v", err)
	}
	if err := e.Pages(1, 0, page(1)); !errors.Is(err, errClosed) {
		t.Errorf("pages after the end: %v", err)
	}
	if err := e.Drop(1, 0, 0); !errors.Is(err, errClosed) {
		t.Errorf("drop after the end: %v", err)
	}
}

type failingWriter struct{ room int }

var errNoRoom = errors.New("no room")

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.room {
		return 0, errNoRoom
	}
	w.room -= len(p)
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	e := NewEncoder(NewTable(testLimit, 0), &failingWriter{room: 5000})
	if err := e.Pages(7, 0, page(1)); err != nil {
		t.Fatal(err)
	}
	if err := e.Pages(7, 1, page(2)); !errors.Is(err, errNoRoom) {
		t.Errorf("pages: %v", err)
	}
	if err := e.Drop(7, 0, 0); !errors.Is(err, errNoRoom) {
		t.Errorf("drop: %v", err)
	}
	if err := e.Close(); !errors.Is(err, errNoRoom) {
		t.Errorf("close: %v", err)
	}
}

// A run of many pages is one MAP, and DATA goes up to the largest record.
func TestLongRuns(t *testing.T) {
	const n = 600
	l := newLink(t, 1<<30, 0)
	var content []byte
	for i := range n {
		content = append(content, page(uint64(i)+1)...)
	}
	stream := l.round(func(e *Encoder) error { return e.Pages(7, 50, content) })
	wantRecords(t, stream, "data 1+256", "data 257+256", "data 513+88", fmt.Sprintf("map 7:0x32+%d to 1", n))
	for i := range uint64(n) {
		l.want(7, 50+i, content[i*PageSize:(i+1)*PageSize])
	}
	stream = l.round(func(e *Encoder) error { return e.Pages(7, 1<<30, make([]byte, n*PageSize)) })
	wantRecords(t, stream, fmt.Sprintf("map 7:%#x+%d to 0", 1<<30, n))
}

// Sums of different content differ, those of equal content are equal, and each table has its own.
func TestSums(t *testing.T) {
	h, other := hasher{mac: newKey().mac()}, hasher{mac: newKey().mac()}
	p := page(1)
	want := h.sum(p)
	if h.sum(bytes.Clone(p)) != want {
		t.Error("equal pages have different sums")
	}
	if other.sum(p) == want {
		t.Error("two tables have the same key")
	}
	for i := range PageSize {
		p[i] ^= 1
		if h.sum(p) == want {
			t.Fatalf("byte %d does not matter", i)
		}
		p[i] ^= 1
	}
}

// The index finds all that is in it, and nothing else, through growth, removal and rebuilding.
func TestIndex(t *testing.T) {
	s := newSlots(1 << 20)
	r := rand.New(rand.NewPCG(1, 2))
	model := map[sum]uint32{}
	var live []sum
	draw := func() sum { return sum{lo: r.Uint64N(1 << 12), hi: r.Uint64()} } // long chains
	for step := range 40000 {
		if step%1000 == 0 {
			s.beginRound()
		}
		switch grow := step/10000%2 == 0; {
		case len(live) == 0 || r.IntN(10) < 7 == grow:
			c := draw()
			slot, ok := s.add(c)
			if !ok {
				t.Fatal("no slot is free")
			}
			model[c], live = slot, append(live, c)
		default:
			i := r.IntN(len(live))
			c := live[i]
			live[i] = live[len(live)-1]
			live = live[:len(live)-1]
			s.release(model[c])
			delete(model, c)
		}
		if _, ok := s.find(draw()); ok {
			t.Fatal("found what is not there")
		}
	}
	for c, slot := range model {
		if got, ok := s.find(c); !ok || got != slot {
			t.Fatalf("slot %d is found as %d, %v", slot, got, ok)
		}
	}
	if s.index.live != len(model) {
		t.Errorf("index counts %d, there are %d", s.index.live, len(model))
	}
	if most := 1 << 16; len(s.index.tags) > most {
		t.Errorf("index has %d places for %d slots", len(s.index.tags), len(model))
	}
}

func TestStoreFile(t *testing.T) {
	path := storeDir(t) + "/store"
	s, err := NewStore(path, testLimit)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("file is %v, %v", info, err)
	}
	if _, err := NewStore(path, testLimit); !errors.Is(err, os.ErrExist) {
		t.Errorf("a second store takes the same file: %v", err)
	}
	if s.Path() != path || s.Bytes() != 0 || len(s.Spaces()) != 0 {
		t.Error("a new store is not empty")
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

type extent struct {
	page uint64
	n    uint32
	slot uint32
	ok   bool
}

func extents(s *Store, space int32, page, n uint64) (all []extent) {
	s.Extents(space, page, n, func(page uint64, n, slot uint32, ok bool) bool {
		all = append(all, extent{page, n, slot, ok})
		return true
	})
	return all
}

func TestExtents(t *testing.T) {
	l := newLink(t, testLimit, 0)
	zeros := make([]byte, PageSize)
	l.pages(7, 126, page(1), page(2), page(3), page(4), zeros, zeros) // across a chunk's end
	l.pages(7, 140, page(3), page(4), page(1))
	l.pages(7, 1<<40, zeros)
	l.pages(8, 0, page(5))
	first := []extent{{126, 4, 1, true}, {130, 2, 0, true}, {132, 8, 0, false}, {140, 2, 3, true}, {142, 1, 1, true}}
	for _, tt := range []struct {
		space   int32
		page, n uint64
		want    []extent
	}{
		{7, 126, 17, first},
		{7, 127, 2, []extent{{127, 2, 2, true}}},
		{7, 0, 130, []extent{{0, 126, 0, false}, {126, 4, 1, true}}},
		{7, 0, 0, nil},
		{7, 200, 3, []extent{{200, 3, 0, false}}},
		{9, 5, 3, []extent{{5, 3, 0, false}}},
		{7, 1<<40 - 5, 10, []extent{{1<<40 - 5, 5, 0, false}, {1 << 40, 1, 0, true}, {1<<40 + 1, 4, 0, false}}},
		{7, 1<<40 + 1, 1<<32 + 5, []extent{{1<<40 + 1, 1<<32 - 1, 0, false}, {1<<40 + 1<<32, 6, 0, false}}},
		{7, maxPage - 2, 100, []extent{{maxPage - 2, 2, 0, false}}},
		{7, 1 << 60, 100, nil},
	} {
		if got := extents(l.store, tt.space, tt.page, tt.n); !slices.Equal(got, tt.want) {
			t.Errorf("extents of %d:%d+%d are\n%v, want\n%v", tt.space, tt.page, tt.n, got, tt.want)
		}
	}
	count := 0
	l.store.Extents(7, 0, maxPage, func(uint64, uint32, uint32, bool) bool { count++; return count < 3 })
	if count != 3 {
		t.Errorf("called %d times, should have stopped after 3", count)
	}
	if slot, ok := l.store.Lookup(7, 141); !ok || slot != 4 {
		t.Errorf("page 141 is in slot %d, %v", slot, ok)
	}
}
