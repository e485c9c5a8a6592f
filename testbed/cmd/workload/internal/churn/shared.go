package churn

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A common is pages that several processes write and all look at. Every page has one writer. Its generation is in memory
// that is shared too; it is odd while the page is being written, so that nobody takes a page for wrong that only is
// unfinished.
type common struct {
	at      unsafe.Pointer
	gens    unsafe.Pointer
	pages   uint64
	seed    uint64
	writers uint64
	file    uintptr // a memory file to be written by pwrite half of the time; 0: none
}

func newCommon(pages int, seed uint64, writers int) (common, error) {
	c := common{pages: uint64(pages), seed: seed, writers: uint64(writers)}
	var err error
	if c.gens, err = mapWith(8*pages/pageSize+1, readWrite, unix.MAP_SHARED); err != nil {
		return c, err
	}
	c.at, err = mapWith(pages, readWrite, unix.MAP_SHARED)
	return c, err
}

// onFile puts a memory file in the place of the mapping.
func (c *common) onFile() error {
	if err := unmap(c.at, int(c.pages)); err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("churn", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("make a memory file: %w", err)
	}
	if err := unix.Ftruncate(fd, int64(c.pages)*pageSize); err != nil {
		return fmt.Errorf("size a memory file: %w", err)
	}
	c.file = uintptr(fd)
	c.at, err = unix.MmapPtr(fd, 0, nil, bytesOf(int(c.pages)), readWrite, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a memory file: %w", err)
	}
	return nil
}

//go:nosplit
//go:norace
func (c *common) gen(i uint64) *uint64 { return wordAt(c.gens, i) }

//go:nosplit
//go:norace
func (c *common) page(i uint64) unsafe.Pointer { return pageAt(c.at, int(i)) }

// write gives a page its next generation. The scratch page is the caller's.
//
//go:nosplit
//go:norace
func (c *common) write(i uint64, byCall bool, scratch unsafe.Pointer) {
	gen := atomic.LoadUint64(c.gen(i)) + 2
	atomic.StoreUint64(c.gen(i), gen-1)
	if c.file != 0 && byCall {
		fill(scratch, c.seed, i, gen)
		n, _, _ := syscall.RawSyscall6(unix.SYS_PWRITE64, c.file, uintptr(scratch), pageSize, uintptr(i)*pageSize, 0, 0)
		if n != pageSize {
			fill(c.page(i), c.seed, i, gen) // interrupted
		}
	} else {
		fill(c.page(i), c.seed, i, gen)
	}
	atomic.StoreUint64(c.gen(i), gen)
}

// wrong looks at a page and returns its first wrong word and its generation, or -1 when it is right, or is being written.
//
//go:nosplit
//go:norace
func (c *common) wrong(i uint64) (int, uint64) {
	gen := atomic.LoadUint64(c.gen(i))
	if gen%2 != 0 {
		return -1, gen
	}
	at := wrong(c.page(i), c.seed, i, gen, pageWords)
	// a load would not be kept behind those of the page on every processor
	if at >= 0 && atomic.AddUint64(c.gen(i), 0) != gen {
		return -1, gen
	}
	return at, gen
}

// share writes a page of its own in each common memory, and looks at another one.
//
//go:nosplit
//go:norace
func (k *kid) share() {
	for n := uint64(0); n < k.commons; n++ {
		c := &k.common[n]
		k.lookCommon(n, k.below(c.pages))
		i := k.below(c.pages/c.writers)*c.writers + k.index
		k.lookCommon(n, i)
		c.write(i, k.below(2) == 0, k.from)
	}
}

//go:nosplit
//go:norace
func (k *kid) lookCommon(n, i uint64) {
	if at, gen := k.common[n].wrong(i); at >= 0 {
		k.complain(uint64(len(k.fields))+n, i, gen, uint64(at), *wordAt(k.common[n].page(i), uint64(at)))
	}
}

// A circle is a family that has memory in common.
type circle struct {
	*family
	common  [2]common
	scratch unsafe.Pointer
}

func shared(o Options) (*cast, error) {
	const kids = 3
	c := &circle{}
	var err error
	if c.scratch, err = mapPages(1); err != nil {
		return nil, err
	}
	for i := range c.common {
		if c.common[i], err = newCommon(pagesIn(o.MiB)/4, o.Seed+uint64(i)<<32, kids+1); err != nil {
			return nil, err
		}
	}
	if err := c.common[1].onFile(); err != nil {
		return nil, err
	}
	c.family, err = newFamily(o, kids, func(k *kid) {
		k.role, k.pause, k.common, k.commons = partner, unix.NsecToTimespec(int64(time.Millisecond)), c.common, uint64(len(c.common))
	})
	return &cast{actors: []actor{c}, burst: 2, pause: time.Millisecond}, err
}

// act writes as the last of the writers.
func (c *circle) act() (*Damage, error) {
	for n := range c.common {
		m := &c.common[n]
		own := m.writers - 1
		i := c.random.below(m.pages/m.writers)*m.writers + own
		for _, i := range []uint64{c.random.below(m.pages), i} {
			if d := c.look(n, i); d != nil {
				return d, nil
			}
		}
		m.write(i, c.random.below(2) == 0, c.scratch)
	}
	return c.tend()
}

func (c *circle) look(n int, i uint64) *Damage {
	if at, gen := c.common[n].wrong(i); at >= 0 {
		return damaged(fmt.Sprintf("common memory %d", n), c.common[n].page(i), c.common[n].seed, i, gen, at)
	}
	return nil
}

func (c *circle) check() (int, *Damage, error) {
	pages := 0
	for n := range c.common {
		for i := range c.common[n].pages {
			if d := c.look(n, i); d != nil {
				return 0, d, nil
			}
		}
		pages += int(c.common[n].pages)
	}
	n, d, err := c.ask()
	return pages + n, d, err
}
