package churn

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const hugePage = 2 << 20

// A giver gives memory back, at once or lazily. A page that was freed lazily holds either what it held, or zeros, and which
// of the two may change until it is written or zeros were seen.
type giver struct {
	random
	what   string
	at     unsafe.Pointer
	seed   uint64
	states []givenState
	writes uint64
	huge   bool
}

type givenState struct {
	gen   uint64
	maybe bool   // or zeros
	poke  uint64 // written into the last word since it was freed; 0: not
}

func dontNeed(o Options) (*cast, error) {
	var actors []actor
	for i, huge := range []bool{false, true} {
		g, err := newGiver(pagesIn(o.MiB)/2, o.Seed+uint64(i)<<32, huge)
		if err != nil {
			return nil, err
		}
		actors = append(actors, g)
	}
	return usual(nil, actors...)
}

func newGiver(pages int, seed uint64, huge bool) (*giver, error) {
	const align = hugePage / pageSize
	pages = max(pages, align)
	at, err := mapPages(pages + align)
	if err != nil {
		return nil, err
	}
	at = unsafe.Add(at, (hugePage-uintptr(at)%hugePage)%hugePage)
	g := &giver{random: random(seed), what: "given back", at: at, seed: seed, states: make([]givenState, pages), huge: huge}
	if huge {
		g.what = "given back, huge"
		_ = unix.Madvise(asBytes(at, pages), unix.MADV_HUGEPAGE) // a kernel without them has small pages here
	}
	return g, nil
}

func (g *giver) act() (*Damage, error) {
	from, to := g.part()
	for i := from; i < to; i++ {
		if d := g.look(i); d != nil {
			return d, nil
		}
	}
	at, pages := pageAt(g.at, from), to-from
	switch g.below(8) {
	case 0:
		clear(g.states[from:to])
		return nil, advise(at, pages, unix.MADV_DONTNEED)
	case 1:
		return nil, g.free(from, to)
	case 2:
		g.poke(from, to)
	case 3:
		if g.huge {
			_ = unix.Madvise(asBytes(at, pages), unix.MADV_COLLAPSE) // not where there is nothing to collapse
		}
	default:
		g.write(from, to)
	}
	return nil, nil
}

// part is a few pages, or as many as a huge page has.
func (g *giver) part() (from, to int) {
	const many = hugePage / pageSize
	n := uint64(len(g.states))
	if g.huge && g.below(16) == 0 {
		from = int(g.below(n/many)) * many
		return from, from + many
	}
	from = int(g.below(n))
	return from, min(from+1+int(g.below(24)), int(n))
}

// write gives pages generations that no page had before.
func (g *giver) write(from, to int) {
	for i := from; i < to; i++ {
		g.writes++
		g.states[i] = givenState{gen: g.writes}
		fill(pageAt(g.at, i), g.seed, uint64(i), g.writes)
	}
}

func (g *giver) free(from, to int) error {
	for i := from; i < to; i++ {
		if g.states[i].poke != 0 {
			g.write(i, i+1)
		}
		g.states[i].maybe = g.states[i].gen > 0
	}
	return advise(pageAt(g.at, from), to-from, unix.MADV_FREE)
}

// poke writes one word, which keeps the page, whatever it holds.
func (g *giver) poke(from, to int) {
	for i := from; i < to; i++ {
		s := &g.states[i]
		if s.maybe && s.poke == 0 {
			s.poke = g.next() | 1
			*wordAt(pageAt(g.at, i), pageWords-1) = s.poke
		}
	}
}

// look checks a page, and settles what it holds where that can be told.
func (g *giver) look(i int) *Damage {
	p, s, words := pageAt(g.at, i), &g.states[i], uint64(pageWords)
	if s.poke != 0 {
		words--
		if found := *wordAt(p, words); found != s.poke {
			d := damaged(g.what+", then written in part", p, g.seed, uint64(i), s.gen, pageWords-1)
			d.Want = fmt.Sprintf("%#016x", s.poke)
			return d
		}
	}
	at := wrong(p, g.seed, uint64(i), s.gen, words)
	if at < 0 {
		s.maybe = s.maybe && s.poke == 0 // what was written stays
		return nil
	}
	if s.maybe && wrong(p, 0, 0, 0, words) < 0 {
		*s = givenState{poke: s.poke}
		return nil
	}
	return damaged(g.what, p, g.seed, uint64(i), s.gen, at)
}

func (g *giver) check() (int, *Damage, error) {
	for i := range g.states {
		if d := g.look(i); d != nil {
			return 0, d, nil
		}
	}
	return len(g.states), nil, nil
}
