package churn

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stacks has threads deep in recursion, which is where they are most of the time, and a mapping that grows downwards.
func stacks(o Options) (*cast, error) {
	const deep = 8
	var actors []actor
	for i := range uint64(deep) {
		actors = append(actors, &recursion{random: random(o.Seed + i<<32)})
	}
	g := &grower{random: random(o.Seed), seed: o.Seed}
	return &cast{actors: append(actors, g), burst: 1, pause: time.Millisecond}, g.begin()
}

// A recursion writes into every frame, and looks at it on the way back.
type recursion struct{ random }

const maxDepth = 1500 // frames of more than 1 KiB

func (r *recursion) act() (*Damage, error) {
	_, d := r.descend(r.next(), 1+r.below(maxDepth))
	return d, nil
}

func (r *recursion) check() (int, *Damage, error) {
	sum, d := r.descend(r.next(), maxDepth)
	return int(sum), d, nil
}

// descend returns how many pages of frames were looked at.
func (r *recursion) descend(seed, depth uint64) (uint64, *Damage) {
	var frame [128]uint64
	for i := range frame {
		frame[i] = word(digest(seed, depth, 1)|8<<60, seed, depth, 1, uint64(i))
	}
	var below uint64
	var d *Damage
	if depth > 1 {
		below, d = r.descend(seed, depth-1)
	} else {
		time.Sleep(3 * time.Millisecond)
	}
	if d != nil {
		return 0, d
	}
	for i, found := range frame {
		if want := word(digest(seed, depth, 1)|8<<60, seed, depth, 1, uint64(i)); found != want {
			return 0, &Damage{What: "stack frame", Page: fmt.Sprintf("%p", &frame), ID: depth, Offset: 8 * i,
				Found: fmt.Sprintf("%#016x", found), Want: fmt.Sprintf("%#016x", want)}
		}
	}
	if depth%4 == 0 {
		below++ // four frames are a page
	}
	return below, nil
}

// A grower has a mapping that the kernel extends downwards when the page below it is touched, as it does with a stack.
type grower struct {
	random
	seed  uint64
	round uint64
	top   unsafe.Pointer
	pages int // that have been written, from the top
	gens  []uint64
}

const (
	// growsAt is where the kernel puts nothing by itself: far from where it begins and from where Go has its heap.
	growsAt   = 0x6000_0000_0000
	growsFrom = 4    // pages
	growsTo   = 1024 // pages; half of the usual limit of a stack
)

func (g *grower) begin() error {
	hint := uintptr(growsAt)
	at, err := unix.MmapPtr(-1, 0, *(*unsafe.Pointer)(unsafe.Pointer(&hint)), bytesOf(growsFrom), readWrite,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_GROWSDOWN|unix.MAP_STACK|unix.MAP_FIXED_NOREPLACE)
	if err != nil {
		return fmt.Errorf("make a mapping that grows: %w", err)
	}
	g.round++
	g.top, g.pages, g.gens = unsafe.Add(at, bytesOf(growsFrom)), 0, make([]uint64, growsTo)
	return nil
}

// page is the i-th from the top.
func (g *grower) page(i int) unsafe.Pointer { return unsafe.Add(g.top, -(i+1)*pageSize) }

func (g *grower) id(i int) uint64 { return g.round<<32 | uint64(i) }

func (g *grower) act() (*Damage, error) {
	if g.pages == growsTo {
		bottom := g.page(g.pages - 1)
		if err := unmap(bottom, g.pages); err != nil {
			return nil, err
		}
		return nil, g.begin()
	}
	g.write(g.pages)
	g.pages++
	i := int(g.below(uint64(g.pages)))
	if d := g.look(i); d != nil {
		return d, nil
	}
	g.write(i)
	return nil, nil
}

func (g *grower) write(i int) {
	g.gens[i]++
	fill(g.page(i), g.seed, g.id(i), g.gens[i])
}

func (g *grower) look(i int) *Damage {
	if at := wrong(g.page(i), g.seed, g.id(i), g.gens[i], pageWords); at >= 0 {
		return damaged("mapping that grows", g.page(i), g.seed, g.id(i), g.gens[i], at)
	}
	return nil
}

func (g *grower) check() (int, *Damage, error) {
	for i := range g.pages {
		if d := g.look(i); d != nil {
			return 0, d, nil
		}
	}
	return g.pages, nil, nil
}

// A breaker moves the program break, which Go's own memory does not use.
type breaker struct {
	random
	seed  uint64
	limit int
	base  uintptr
	last  uint64
	pages []version
}

func programBreak(o Options) (*cast, error) {
	b := &breaker{random: random(o.Seed), seed: o.Seed, limit: pagesIn(o.MiB) / 2}
	b.base = (brk(0) + pageSize - 1) &^ (pageSize - 1)
	return usual(b.move(b.limit/2), b)
}

// brk asks for a program break and returns what it is then, like the system call.
func brk(to uintptr) uintptr {
	at, _, _ := unix.RawSyscall(unix.SYS_BRK, to, 0, 0)
	return at
}

func (b *breaker) page(i int) unsafe.Pointer {
	at := b.base + bytesOf(i)
	return *(*unsafe.Pointer)(unsafe.Pointer(&at))
}

// move has so many pages below the break.
func (b *breaker) move(pages int) error {
	want := b.base + bytesOf(pages)
	if got := brk(want); got != want {
		return fmt.Errorf("move the program break to %#x: it is at %#x", want, got)
	}
	kept := min(pages, len(b.pages))
	b.pages = append(b.pages[:kept:kept], make([]version, pages-kept)...)
	return nil
}

func (b *breaker) act() (*Damage, error) {
	if b.below(16) == 0 {
		return nil, b.move(b.limit/4 + int(b.below(uint64(b.limit*3/4))))
	}
	i := int(b.below(uint64(len(b.pages))))
	if d := b.look(i); d != nil {
		return d, nil
	}
	b.last++
	b.pages[i] = version{uint64(i), b.last}
	fill(b.page(i), b.seed, uint64(i), b.last)
	return nil, nil
}

func (b *breaker) look(i int) *Damage {
	v := b.pages[i]
	if at := wrong(b.page(i), b.seed, v.id, v.gen, pageWords); at >= 0 {
		return damaged("below the program break", b.page(i), b.seed, v.id, v.gen, at)
	}
	return nil
}

func (b *breaker) check() (int, *Damage, error) {
	for i := range b.pages {
		if d := b.look(i); d != nil {
			return 0, d, nil
		}
	}
	return len(b.pages), nil, nil
}
