package churn

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// A hoarder keeps memory in Go's heap, in small pieces and large ones that refer to each other, and has the collector run all the time.
// What is in a piece is known from outside of the heap.
type hoarder struct {
	random
	seed  uint64
	gens  []uint64 // of each piece; 0: there is none
	next  uint64
	keep  map[uint64]*piece
	spare [][]byte // garbage, a moment later
}

// A piece refers to another one, so that the collector has to follow.
type piece struct {
	id, gen uint64
	words   []uint64
	other   *piece
}

const mostWords = 1024

func goHeap(o Options) (*cast, error) {
	debug.SetGCPercent(20)
	var actors []actor
	const each = 2
	for i := range uint64(each) {
		seed := o.Seed + i<<32
		h := &hoarder{random: random(seed), seed: seed, gens: make([]uint64, pagesIn(o.MiB)/each), keep: map[uint64]*piece{}}
		for id := range uint64(len(h.gens)) {
			h.replace(id)
		}
		actors = append(actors, h)
	}
	return usual(nil, actors...)
}

// size is how many words a piece has.
func (h *hoarder) size(id, gen uint64) int { return 1 + int(mix(h.seed^id<<20^gen)%mostWords) }

func (h *hoarder) make(id, gen uint64) *piece {
	p := &piece{id: id, gen: gen, words: make([]uint64, h.size(id, gen))}
	for i := range p.words {
		p.words[i] = mix(h.seed ^ id<<40 ^ gen<<12 ^ uint64(i))
	}
	p.other = h.keep[h.below(uint64(len(h.gens)))]
	if p.other != nil {
		p.other.other = nil // no chains without end
	}
	return p
}

func (h *hoarder) act() (*Damage, error) {
	id := h.below(uint64(len(h.gens)))
	if d := h.look(id); d != nil {
		return d, nil
	}
	h.spare = append(h.spare, make([]byte, 1+h.below(1<<16)))
	switch h.below(256) {
	case 0:
		runtime.GC()
	case 1:
		debug.FreeOSMemory()
	case 2:
		h.spare = nil
	}
	if h.below(8) == 0 {
		delete(h.keep, id)
		h.gens[id] = 0
		return nil, nil
	}
	h.replace(id)
	return nil, nil
}

func (h *hoarder) replace(id uint64) {
	h.next++
	h.keep[id], h.gens[id] = h.make(id, h.next), h.next
}

func (h *hoarder) look(id uint64) *Damage {
	gen, p := h.gens[id], h.keep[id]
	if gen == 0 && p == nil {
		return nil
	}
	if p == nil || p.id != id || p.gen != gen || len(p.words) != h.size(id, gen) {
		return &Damage{What: "a piece of Go's heap", ID: id, Gen: gen, Is: fmt.Sprintf("%.60v", p)}
	}
	for i, is := range p.words {
		if want := mix(h.seed ^ id<<40 ^ gen<<12 ^ uint64(i)); is != want {
			return &Damage{What: "a piece of Go's heap", ID: id, Gen: gen, Offset: 8 * i, Found: fmt.Sprintf("%#x", is), Want: fmt.Sprintf("%#x", want)}
		}
	}
	return nil
}

func (h *hoarder) check() (int, *Damage, error) {
	words := 0
	for id := range uint64(len(h.gens)) {
		if d := h.look(id); d != nil {
			return 0, d, nil
		}
		if p := h.keep[id]; p != nil {
			words += len(p.words)
		}
	}
	return words / pageWords, nil, nil
}
