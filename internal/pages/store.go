package pages

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// Store keeps the pages of a container at the destination. It is safe for concurrent use; what it answers makes sense
// only between rounds.
type Store struct {
	file *os.File
	last uint32        // highest slot
	high atomic.Uint32 // highest slot that was stored

	mu    sync.RWMutex
	pages *pageMap
}

// NewStore makes an empty store in a new file at path, which must not exist and should be on a tmpfs. The file grows up
// to limit bytes, not counting slot 0, which stays a hole. Page tables in memory take 4 to 5 bytes a page; a source that
// spreads pages as thinly as it can makes them grow to 80 MB and 80 bytes a page of limit, then it is refused. The caller
// must close the store.
func NewStore(path string, limit int64) (*Store, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create page store: %w", err)
	}
	n := slotCount(limit)
	return &Store{file: f, last: n, pages: newPageMap(n, 2)}, nil
}

// Path is where the store's file is.
func (s *Store) Path() string { return s.file.Name() }

// Bytes is how much the store's file takes.
func (s *Store) Bytes() int64 { return int64(s.high.Load()) * PageSize }

// Close removes the file. Whoever else has it open can go on to read it. Closing twice is harmless.
func (s *Store) Close() error {
	err := s.file.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	if rm := os.Remove(s.file.Name()); rm != nil && !errors.Is(rm, os.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	if err != nil {
		return fmt.Errorf("close page store: %w", err)
	}
	return nil
}

// Spaces lists the spaces of which any page is known, in ascending order.
func (s *Store) Spaces() []int32 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.pages.spaces))
}

// Lookup tells in which slot a page is; 0 means that it is all zeros. ok is false when nothing is known about it.
func (s *Store) Lookup(space int32, page uint64) (slot uint32, ok bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if entry := s.pages.get(space, page); entry != entryNone {
		return entry - 1, true
	}
	return 0, false
}

// ErrUnknown is what ReadPage returns for a page of which nothing is known.
var ErrUnknown = errors.New("page is not known")

// ReadPage reads a page into p, which has PageSize bytes.
func (s *Store) ReadPage(space int32, page uint64, p []byte) error {
	slot, ok := s.Lookup(space, page)
	err := ErrUnknown
	if ok {
		err = s.readSlot(slot, p[:PageSize])
	}
	if err != nil {
		return fmt.Errorf("read page %#x of space %d: %w", page, space, err)
	}
	return nil
}

func (s *Store) readSlot(slot uint32, p []byte) error {
	if slot == 0 {
		clear(p)
		return nil
	}
	_, err := s.file.ReadAt(p, int64(slot)*PageSize)
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("slot %d was never stored: %w", slot, io.ErrUnexpectedEOF)
	}
	return err
}

// Extents goes through n pages of a space from page in ascending order and calls yield with runs of them, until it
// returns false: n pages from page that are in as many slots from slot, or with slot 0 are all zeros; ok is false for
// pages of which nothing is known. The store may be used by yield.
func (s *Store) Extents(space int32, page, n uint64, yield func(page uint64, n uint32, slot uint32, ok bool) bool) {
	if page >= maxPage {
		return
	}
	n = min(n, maxPage-page)
	s.mu.RLock()
	indexes := chunksWithin(s.pages.spaces[space], page, n)
	s.mu.RUnlock()

	g := gatherer{yield: yield, next: page}
	for _, index := range indexes {
		entries := s.entries(space, index)
		from, to := overlap(index, page, n)
		g.gap(index*chunkPages + from)
		for i := from; i < to; i++ {
			g.add(entries[i])
		}
		if g.stopped {
			return
		}
	}
	g.gap(page + n)
	g.flush()
}

// entries copies a chunk, so that no lock is held while it is gone through.
func (s *Store) entries(space int32, index uint64) (entries [chunkPages]uint32) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.pages.spaces[space][index]; c != nil {
		entries = c.entries
	}
	return entries
}

// gatherer makes runs of entries that come page by page.
type gatherer struct {
	yield   func(page uint64, n uint32, slot uint32, ok bool) bool
	next    uint64 // page that comes next
	n       uint64 // pages of the run before it
	first   uint32 // entry of the run's first page
	stopped bool
}

func (g *gatherer) add(entry uint32) {
	want := g.first
	if g.first > entryZero {
		want += uint32(g.n)
	}
	if g.n > 0 && entry != want {
		g.flush()
	}
	if g.n == 0 {
		g.first = entry
	}
	g.n++
	g.next++
}

// gap adds pages of which nothing is known, up to page to.
func (g *gatherer) gap(to uint64) {
	if g.next >= to {
		return
	}
	g.add(entryNone)
	g.n += to - g.next
	g.next = to
}

// flush hands out the run, in several parts where 32 bits cannot count it.
func (g *gatherer) flush() {
	for g.n > 0 && !g.stopped {
		n := min(g.n, math.MaxUint32)
		slot := uint32(0)
		if g.first > entryZero {
			slot = g.first - 1
		}
		g.stopped = !g.yield(g.next-g.n, uint32(n), slot, g.first != entryNone)
		g.n -= n
	}
	g.n = 0
}
