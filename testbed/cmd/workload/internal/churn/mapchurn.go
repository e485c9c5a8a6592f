package churn

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A version names a page's content; with generation 0 it is zeros.
type version struct{ id, gen uint64 }

// A chunk is a mapping, or a part of one. Pages take their content along when they move.
type chunk struct {
	at    unsafe.Pointer
	pages []version
}

// A mapper has chunks come, go and move.
type mapper struct {
	random
	seed   uint64
	lastID uint64
	limit  int // pages
	total  int // pages
	chunks []*chunk
}

const maxChunk = 96 // pages

func mapChurn(o Options) (*cast, error) {
	var actors []actor
	for i := range uint64(2) {
		seed := o.Seed + i<<32
		actors = append(actors, &mapper{random: random(seed), seed: seed, limit: pagesIn(o.MiB) / 2})
	}
	return usual(nil, actors...)
}

// act does something to a chunk that was looked at before.
func (m *mapper) act() (*Damage, error) {
	if m.total < m.limit/2 || len(m.chunks) == 0 {
		return nil, m.add()
	}
	n := int(m.below(uint64(len(m.chunks))))
	c := m.chunks[n]
	if d := m.look(c); d != nil {
		return d, nil
	}
	if m.total > m.limit || len(c.pages) == 0 {
		return nil, m.drop(n)
	}
	acts := []func(*chunk) error{m.write, m.write, m.write, m.resize, m.moveTo, m.moveOut, m.mapOver, m.split}
	return nil, acts[m.below(uint64(len(acts)))](c)
}

// some is a random part of a chunk, not empty.
func (m *mapper) some(c *chunk) (from, to int) {
	n := uint64(len(c.pages))
	from = int(m.below(n))
	return from, from + 1 + int(m.below(n-uint64(from)))
}

// keep takes a mapping in whose content is zeros.
func (m *mapper) keep(at unsafe.Pointer, pages []version) *chunk {
	c := &chunk{at, pages}
	m.chunks = append(m.chunks, c)
	m.total += len(pages)
	return c
}

func (m *mapper) add() error {
	pages := 1 + int(m.below(maxChunk))
	at, err := mapPages(pages)
	if err != nil {
		return err
	}
	return m.write(m.keep(at, make([]version, pages)))
}

func (m *mapper) drop(n int) error {
	c := m.chunks[n]
	m.chunks[n] = m.chunks[len(m.chunks)-1]
	m.chunks = m.chunks[:len(m.chunks)-1]
	m.total -= len(c.pages)
	if len(c.pages) == 0 {
		return nil
	}
	return unmap(c.at, len(c.pages))
}

// write writes a part; a page has a new id when it was empty.
func (m *mapper) write(c *chunk) error {
	from, to := m.some(c)
	for i := from; i < to; i++ {
		v := &c.pages[i]
		if v.gen == 0 {
			m.lastID++
			v.id = m.lastID
		}
		v.gen++
		fill(pageAt(c.at, i), m.seed, v.id, v.gen)
	}
	return nil
}

// resize shrinks a chunk or grows it, which moves it when something is in the way.
func (m *mapper) resize(c *chunk) error {
	pages := 1 + int(m.below(maxChunk))
	if err := m.remap(c, nil, pages, unix.MREMAP_MAYMOVE); err != nil {
		return err
	}
	m.total += pages - len(c.pages)
	kept := copy(make([]version, pages), c.pages)
	c.pages = append(c.pages[:kept:kept], make([]version, pages-kept)...)
	return nil
}

// moveTo moves a chunk over another mapping.
func (m *mapper) moveTo(c *chunk) error {
	to, err := mapWith(len(c.pages), unix.PROT_NONE, unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	return m.remap(c, to, len(c.pages), unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED)
}

// moveOut moves the pages and leaves the old mapping, empty.
func (m *mapper) moveOut(c *chunk) error {
	old := c.at
	if err := m.remap(c, nil, len(c.pages), unix.MREMAP_MAYMOVE|unix.MREMAP_DONTUNMAP); err != nil {
		return err
	}
	m.keep(old, make([]version, len(c.pages)))
	return nil
}

// remap moves a chunk, or changes its size. The kernel refuses that for what is more than one mapping to it. A chunk is a part of
// one, so whoever watches the memory must not have divided it.
func (m *mapper) remap(c *chunk, to unsafe.Pointer, pages, flags int) error {
	at, err := unix.MremapPtr(c.at, bytesOf(len(c.pages)), to, bytesOf(pages), flags)
	if err != nil {
		return fmt.Errorf("remap %d pages at %#x to %d, flags %#x: %w", len(c.pages), c.at, pages, flags, err)
	}
	c.at = at
	return nil
}

// mapOver maps empty memory over a part, which is a chunk of its own then.
func (m *mapper) mapOver(c *chunk) error {
	from, to := m.some(c)
	_, err := unix.MmapPtr(-1, 0, pageAt(c.at, from), bytesOf(to-from), readWrite, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED)
	if err != nil {
		return fmt.Errorf("map over %d pages: %w", to-from, err)
	}
	m.cut(c, to)
	m.cut(c, from)
	clear(m.chunks[len(m.chunks)-1].pages)
	return nil
}

// split unmaps a part.
func (m *mapper) split(c *chunk) error {
	from, to := m.some(c)
	m.cut(c, to)
	m.cut(c, from)
	return m.drop(len(m.chunks) - 1)
}

// cut makes what is from a page on a chunk of its own, the last one. Chunks may be left empty.
func (m *mapper) cut(c *chunk, page int) {
	m.chunks = append(m.chunks, &chunk{pageAt(c.at, page), append([]version(nil), c.pages[page:]...)})
	c.pages = c.pages[:page]
}

func (m *mapper) look(c *chunk) *Damage {
	for i, v := range c.pages {
		p := pageAt(c.at, i)
		if at := wrong(p, m.seed, v.id, v.gen, pageWords); at >= 0 {
			return damaged(fmt.Sprintf("page %d of a chunk of %d", i, len(c.pages)), p, m.seed, v.id, v.gen, at)
		}
	}
	return nil
}

func (m *mapper) check() (int, *Damage, error) {
	for _, c := range m.chunks {
		if d := m.look(c); d != nil {
			return 0, d, nil
		}
	}
	return m.total, nil, nil
}
