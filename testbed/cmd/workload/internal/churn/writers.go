package churn

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"
)

// A writer writes random pages of its field.
type writer struct {
	*field
	random
	what string
}

func newWriter(pages int, seed uint64, what string) (*writer, error) {
	f, err := newField(pages, seed)
	return &writer{f, random(seed), what}, err
}

func (w *writer) act() (*Damage, error) { return w.rewrite(&w.random, w.what), nil }

func (w *writer) check() (int, *Damage, error) {
	pages, d := w.lookAll(w.what)
	return pages, d, nil
}

// writers are so many writers that share the memory.
func writers(o Options, count int, what string) (actors []actor, err error) {
	for i := range count {
		w, err := newWriter(pagesIn(o.MiB)/count, o.Seed+uint64(i)<<32, fmt.Sprintf("%s %d", what, i))
		if err != nil {
			return nil, err
		}
		actors = append(actors, w)
	}
	return actors, nil
}

func randomWriters(o Options) (*cast, error) {
	actors, err := writers(o, 4, "writer")
	return usual(err, actors...)
}

// A storm writes one word of every page, in order, and in the next pass another word. What a page holds follows from the
// pass and the place in it alone.
type storm struct {
	at    unsafe.Pointer
	pages int
	seed  uint64
	pass  uint64
	next  int // page
}

func writeStorm(o Options) (*cast, error) {
	pages := pagesIn(o.MiB)
	at, err := mapPages(pages)
	if err != nil {
		return nil, err
	}
	return &cast{actors: []actor{&storm{at: at, pages: pages, seed: o.Seed}}, burst: 1}, nil
}

// value is what a pass writes.
func (s *storm) value(page int, pass uint64) uint64 { return mix(s.seed ^ uint64(page)<<32 ^ pass) }

// last is the last pass before end that wrote a word; 0: none. Pass p writes word p modulo the page's words, and the first one
// is 1.
func (s *storm) last(word, end uint64) uint64 {
	if end <= 1 {
		return 0
	}
	top := end - 1
	back := (top + pageWords - word) % pageWords
	if back >= top {
		return 0
	}
	return top - back
}

// end is the first pass that has not written the page.
func (s *storm) end(page int) uint64 {
	if page < s.next {
		return s.pass + 1
	}
	return s.pass
}

const stormBurst = 512

func (s *storm) act() (*Damage, error) {
	for range stormBurst {
		if s.next == 0 || s.next == s.pages {
			s.pass, s.next = s.pass+1, 0
		}
		p := pageAt(s.at, s.next)
		if s.pass > 1 {
			if d := s.look(s.next, (s.pass-1)%pageWords); d != nil {
				return d, nil
			}
		}
		*wordAt(p, s.pass%pageWords) = s.value(s.next, s.pass)
		s.next++
	}
	return nil, nil
}

func (s *storm) look(page int, word uint64) *Damage {
	var want uint64
	if pass := s.last(word, s.end(page)); pass > 0 {
		want = s.value(page, pass)
	}
	p := pageAt(s.at, page)
	found := *wordAt(p, word)
	if found == want {
		return nil
	}
	d := &Damage{What: "storm", Page: fmt.Sprintf("%#x", uintptr(p)), ID: uint64(page), Gen: s.pass, Offset: int(8 * word),
		Found: fmt.Sprintf("%#016x", found), Want: fmt.Sprintf("%#016x", want)}
	for pass := s.end(page); pass > 0; pass-- {
		if s.value(page, pass) == found {
			d.Is = fmt.Sprintf("from pass %d", pass)
		}
	}
	return d
}

func (s *storm) check() (int, *Damage, error) {
	for page := range s.pages {
		for word := range uint64(pageWords) {
			if d := s.look(page, word); d != nil {
				return 0, d, nil
			}
		}
	}
	return s.pages, nil, nil
}

const (
	steadyThreads = 24
	briefThreads  = 12
	briefPages    = 32
)

func threads(o Options) (*cast, error) {
	actors, err := writers(o, steadyThreads, "thread")
	if err != nil {
		return nil, err
	}
	b := &brief{seed: o.Seed, faults: make(chan error, briefThreads)}
	return &cast{actors: append(actors, b), burst: 4, pause: 2 * time.Millisecond}, nil
}

// brief keeps threads beginning and ending, each with a mapping of its own.
type brief struct {
	seed   uint64
	count  atomic.Int64
	faults chan error
}

func (b *brief) act() (*Damage, error) {
	select {
	case err := <-b.faults:
		return nil, err
	default:
	}
	if b.count.Load() < briefThreads {
		b.count.Add(1)
		b.seed++
		go b.live(b.seed)
	}
	return nil, nil
}

// check has nothing of its own to look at: the threads have looked at everything when they end.
func (b *brief) check() (int, *Damage, error) {
	select {
	case err := <-b.faults:
		return 0, nil, err
	default:
		return 0, nil, nil
	}
}

// live is the life of a thread. The thread ends with it because it stays locked.
func (b *brief) live(seed uint64) {
	runtime.LockOSThread()
	defer b.count.Add(-1)
	if err := b.lifetime(seed); err != nil {
		b.faults <- err
	}
}

func (b *brief) lifetime(seed uint64) error {
	w, err := newWriter(briefPages, seed<<20, "thread that ends")
	if err != nil {
		return err
	}
	for range 10 + rand.IntN(50) {
		if d, _ := w.act(); d != nil {
			return d
		}
		time.Sleep(time.Millisecond)
	}
	if _, d := w.lookAll(w.what); d != nil {
		return d
	}
	if err := unmap(w.gens, 8*briefPages/pageSize+1); err != nil {
		return err
	}
	return unmap(w.at, briefPages)
}
