package churn

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mlock2 locks pages as they come.
func mlock2(b []byte) error {
	if _, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MLOCK_ONFAULT); errno != 0 {
		return errno
	}
	return nil
}

// A hermit has few pages in much room.
type hermit struct {
	random
	at    unsafe.Pointer
	seed  uint64
	pages []uint64 // that may be touched
	gens  map[uint64]uint64
}

const (
	sparseRoom  = 1 << 40
	sparsePages = 2048
)

func sparse(o Options) (*cast, error) {
	at, err := unix.MmapPtr(-1, 0, nil, sparseRoom, readWrite, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes: %w", uint64(sparseRoom), err)
	}
	// and some that is only reserved, which the kernel would not give to anybody who could write to it
	if _, err := unix.MmapPtr(-1, 0, nil, sparseRoom, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("reserve %d bytes: %w", uint64(sparseRoom), err)
	}
	h := &hermit{random: random(o.Seed), at: at, seed: o.Seed, gens: map[uint64]uint64{}}
	const last = sparseRoom/pageSize - 1
	h.pages = append(h.pages, 0, last)
	for len(h.pages) < min(sparsePages, pagesIn(o.MiB)/2) {
		first := h.below(last - 4)
		for n := range 1 + h.below(4) { // neighbours, sometimes
			h.pages = append(h.pages, first+n)
		}
	}
	return usual(nil, h)
}

func (h *hermit) page(n uint64) unsafe.Pointer { return unsafe.Add(h.at, n*pageSize) }

func (h *hermit) act() (*Damage, error) {
	n := h.pages[h.below(uint64(len(h.pages)))]
	if d := h.look(n); d != nil {
		return d, nil
	}
	if h.below(8) == 0 {
		delete(h.gens, n)
		return nil, advise(h.page(n), 1, unix.MADV_DONTNEED)
	}
	h.gens[n] = h.next()>>32 + 1
	fill(h.page(n), h.seed, n, h.gens[n])
	return nil, nil
}

func (h *hermit) look(n uint64) *Damage {
	if at := wrong(h.page(n), h.seed, n, h.gens[n], pageWords); at >= 0 {
		return damaged("sparse mapping", h.page(n), h.seed, n, h.gens[n], at)
	}
	return nil
}

func (h *hermit) check() (int, *Damage, error) {
	for _, n := range h.pages {
		if d := h.look(n); d != nil {
			return 0, d, nil
		}
	}
	return len(h.pages), nil, nil
}

// A hugeField is in huge pages, some of which are given back whole.
type hugeField struct {
	*writer
}

const hugePages = 12

func hugeTLB(o Options) (*cast, error) {
	const pages = hugePages * hugePage / pageSize
	if size := hugePageSize(); size != hugePage {
		return nil, &Unavailable{fmt.Sprintf("its huge pages have %d bytes", size)}
	}
	at, err := mapWith(pages, readWrite, unix.MAP_HUGETLB)
	if err != nil {
		return nil, &Unavailable{fmt.Sprintf("%d huge pages: %v (is vm.nr_hugepages large enough?)", hugePages, err)}
	}
	f, err := fieldAt(at, pages, o.Seed)
	if err != nil {
		return nil, err
	}
	f.sow()
	return usual(nil, hugeField{&writer{f, random(o.Seed), "huge page"}})
}

// hugePageSize is the size of the huge pages that are used when none is asked for, in bytes; 0: none.
func hugePageSize() int {
	text, _ := os.ReadFile("/proc/meminfo")
	_, after, _ := strings.Cut(string(text), "Hugepagesize:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0
	}
	kib, _ := strconv.Atoi(fields[0])
	return kib << 10
}

func (h hugeField) act() (*Damage, error) {
	if h.below(512) > 0 {
		return h.rewrite(&h.random, h.what), nil
	}
	const many = hugePage / pageSize
	from := int(h.below(hugePages)) * many
	for i := from; i < from+many; i++ {
		if d := h.look(i, h.what); d != nil {
			return d, nil
		}
		*h.gen(i) = 0
	}
	return nil, advise(h.page(from), many, unix.MADV_DONTNEED)
}

// A filed is private mappings of a file: what is not written is the file's.
type filed struct {
	*field        // generation 0: the file's content
	random        //
	second *field // another mapping of the second half, writable too
	plain  unsafe.Pointer
	name   string
}

// fileGen is the generation of the file's own content, which has another seed than what is written over it.
const fileGen = 1

func filePrivate(o Options) (*cast, error) {
	pages := pagesIn(o.MiB) / 2
	f := &filed{random: random(o.Seed), name: filepath.Join(o.Dir, "churn-filepriv")}
	file, err := f.makeFile(pages, o.Seed)
	if err != nil {
		return nil, fmt.Errorf("make the file to be mapped: %w", err)
	}
	defer file.Close()
	if f.field, err = mapFile(file, 0, pages, o.Seed); err != nil {
		return nil, err
	}
	if f.second, err = mapFile(file, pages/2, pages/2, o.Seed+1); err != nil {
		return nil, err
	}
	f.plain, err = unix.MmapPtr(int(file.Fd()), 0, nil, bytesOf(pages), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map the file for reading: %w", err)
	}
	return usual(nil, f)
}

func fileSeed(seed uint64) uint64 { return mix(seed) }

func (f *filed) makeFile(pages int, seed uint64) (*os.File, error) {
	scratch, err := mapPages(1)
	if err != nil {
		return nil, err
	}
	file, err := os.Create(f.name)
	if err != nil {
		return nil, err
	}
	for i := range pages {
		fill(scratch, fileSeed(seed), uint64(i), fileGen)
		if _, err := file.Write(asBytes(scratch, 1)); err != nil {
			_ = file.Close()
			return nil, err
		}
	}
	return file, unmap(scratch, 1)
}

// mapFile maps a part of the file. Pages that are written have generations from 1 on.
func mapFile(file *os.File, from, pages int, seed uint64) (*field, error) {
	at, err := unix.MmapPtr(int(file.Fd()), int64(from)*pageSize, nil, bytesOf(pages), readWrite, unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("map the file: %w", err)
	}
	return fieldAt(at, pages, seed)
}

func (f *filed) act() (*Damage, error) {
	m, from := f.field, 0
	if f.below(2) == 0 {
		m, from = f.second, f.pages/2
	}
	i := int(f.below(uint64(m.pages)))
	if d := f.lookAt(m, from, i); d != nil {
		return d, nil
	}
	if f.below(4) == 0 {
		*m.gen(i) = 0
		return nil, advise(m.page(i), 1, unix.MADV_DONTNEED)
	}
	m.write(i)
	return f.lookPlain(int(f.below(uint64(f.pages)))), nil
}

func (f *filed) lookAt(m *field, from, i int) *Damage {
	if *m.gen(i) > 0 {
		return m.look(i, "written page of a file's private mapping")
	}
	return f.lookFile(m.page(i), from+i, "page of a file's private mapping")
}

func (f *filed) lookFile(p unsafe.Pointer, i int, what string) *Damage {
	seed := fileSeed(f.seed)
	if at := wrong(p, seed, uint64(i), fileGen, pageWords); at >= 0 {
		return damaged(what, p, seed, uint64(i), fileGen, at)
	}
	return nil
}

func (f *filed) lookPlain(i int) *Damage {
	return f.lookFile(pageAt(f.plain, i), i, "page of a file's read-only mapping")
}

func (f *filed) check() (int, *Damage, error) {
	for from, m := range map[int]*field{0: f.field, f.pages / 2: f.second} {
		for i := range m.pages {
			if d := f.lookAt(m, from, i); d != nil {
				return 0, d, nil
			}
		}
	}
	for i := range f.pages {
		if d := f.lookPlain(i); d != nil {
			return 0, d, nil
		}
	}
	return 2*f.pages + f.second.pages, nil, nil
}
