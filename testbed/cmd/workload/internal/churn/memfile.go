package churn

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sheet is a file in memory that is open and, but for moments, not mapped. It is written by calls and through mappings that are gone again,
// it shrinks, grows and gets holes, and another file takes its place from time to time.
type sheet struct {
	random
	fd     int
	seed   uint64
	gens   []uint64 // of its pages, as long as the file may become
	size   int      // pages that it has now
	writes uint64
	page   unsafe.Pointer // to write from and to read into
}

func memFiles(o Options) (*cast, error) {
	var actors []actor
	for i := range 2 {
		s := &sheet{random: random(o.Seed + uint64(i)), seed: o.Seed + uint64(i)<<32, gens: make([]uint64, pagesIn(o.MiB)/4)}
		var err error
		if s.page, err = mapPages(1); err != nil {
			return nil, err
		}
		if err := s.replace(); err != nil {
			return nil, err
		}
		v, err := newViews(pagesIn(o.MiB)/4, o.Seed+uint64(2+i)<<32)
		if err != nil {
			return nil, err
		}
		actors = append(actors, s, v)
	}
	return usual(nil, actors...)
}

// replace takes a new file.
func (s *sheet) replace() error {
	fd, err := unix.MemfdCreate("churn", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a memory file: %w", err)
	}
	if s.fd > 0 {
		if err := unix.Close(s.fd); err != nil {
			return fmt.Errorf("close a memory file: %w", err)
		}
	}
	s.fd, s.size = fd, 0
	clear(s.gens)
	if err := s.resize(len(s.gens) / 2); err != nil {
		return err
	}
	for i := range s.size / 2 {
		if err := s.write(i); err != nil {
			return err
		}
	}
	return nil
}

func (s *sheet) resize(pages int) error {
	if err := unix.Ftruncate(s.fd, int64(pages)*pageSize); err != nil {
		return fmt.Errorf("resize a memory file: %w", err)
	}
	s.size = pages
	clear(s.gens[pages:])
	return nil
}

// fresh is the next generation of a page, one that none had before.
func (s *sheet) fresh(i int) uint64 {
	s.writes++
	s.gens[i] = s.writes
	return s.writes
}

func (s *sheet) write(i int) error {
	fill(s.page, s.seed, uint64(i), s.fresh(i))
	if n, err := unix.Pwrite(s.fd, asBytes(s.page, 1), int64(i)*pageSize); err != nil || n != pageSize {
		return fmt.Errorf("write a memory file: %d bytes, %w", n, err)
	}
	return nil
}

// writeMapped writes pages through a mapping that does not last.
func (s *sheet) writeMapped(i, n int) error {
	at, err := unix.MmapPtr(s.fd, int64(i)*pageSize, nil, bytesOf(n), readWrite, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a memory file: %w", err)
	}
	for k := range n {
		fill(pageAt(at, k), s.seed, uint64(i+k), s.fresh(i+k))
	}
	return unmap(at, n)
}

func (s *sheet) punch(i, n int) error {
	if err := unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(i)*pageSize, int64(n)*pageSize); err != nil {
		return fmt.Errorf("make a hole in a memory file: %w", err)
	}
	clear(s.gens[i : i+n])
	return nil
}

func (s *sheet) look(i int) (*Damage, error) {
	if n, err := unix.Pread(s.fd, asBytes(s.page, 1), int64(i)*pageSize); err != nil || n != pageSize {
		return nil, fmt.Errorf("read a memory file: %d bytes, %w", n, err)
	}
	if at := wrong(s.page, s.seed, uint64(i), s.gens[i], pageWords); at >= 0 {
		return damaged("memory file", s.page, s.seed, uint64(i), s.gens[i], at), nil
	}
	return nil, nil
}

func (s *sheet) act() (*Damage, error) {
	i := int(s.below(uint64(s.size)))
	if d, err := s.look(i); d != nil || err != nil {
		return d, err
	}
	n := 1 + int(s.below(uint64(min(16, s.size-i))))
	switch s.below(16) {
	case 0:
		return nil, s.punch(i, n)
	case 1:
		return nil, s.resize(len(s.gens)/4 + int(s.below(uint64(len(s.gens)*3/4))))
	case 2:
		if s.below(64) == 0 {
			return nil, s.replace()
		}
		return nil, nil
	case 3, 4, 5:
		return nil, s.writeMapped(i, n)
	}
	return nil, s.write(i)
}

func (s *sheet) check() (int, *Damage, error) {
	for i := range s.size {
		if d, err := s.look(i); d != nil || err != nil {
			return 0, d, err
		}
	}
	return s.size, nil, nil
}

// views are two mappings of the same shared memory that has no name, one of which comes and goes. What is written through one shows in the other;
// what is removed is zeros in both.
type views struct {
	*field
	random
	other  unsafe.Pointer // nil while there is none
	writes uint64
}

func newViews(pages int, seed uint64) (*views, error) {
	at, err := mapWith(pages, readWrite, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	f, err := fieldAt(at, pages, seed)
	if err != nil {
		return nil, err
	}
	f.sow()
	return &views{field: f, random: random(seed), writes: 1}, nil
}

func (v *views) act() (*Damage, error) {
	i := int(v.below(uint64(v.pages)))
	if d := v.field.look(i, "shared view"); d != nil {
		return d, nil
	}
	switch v.below(32) {
	case 0:
		n := 1 + int(v.below(uint64(min(32, v.pages-i))))
		for k := i; k < i+n; k++ {
			*v.gen(k) = 0
		}
		return nil, advise(v.page(i), n, unix.MADV_REMOVE)
	case 1:
		return nil, v.turn()
	}
	at := v.at
	if v.other != nil && v.below(2) == 0 {
		at = v.other
	}
	v.writes++ // a generation that no page had before
	*v.gen(i) = v.writes
	fill(pageAt(at, i), v.seed, uint64(i), v.writes)
	return nil, nil
}

// turn makes the other mapping, or takes it away.
func (v *views) turn() (err error) {
	if v.other != nil {
		at := v.other
		v.other = nil
		return unmap(at, v.pages)
	}
	// of shared memory, a mapping that is moved from no bytes is one more (mremap(2))
	at, err := unix.MremapPtr(v.at, 0, nil, bytesOf(v.pages), unix.MREMAP_MAYMOVE)
	if err != nil {
		return fmt.Errorf("map shared memory once more: %w", err)
	}
	v.other = at
	return nil
}

func (v *views) check() (int, *Damage, error) {
	n, d := v.lookAll("shared view")
	return n, d, nil
}
