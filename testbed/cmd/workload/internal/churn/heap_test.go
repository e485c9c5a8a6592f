package churn

import (
	"testing"
)

// TestGoHeapDamage checks that a wrong piece is found, whatever is wrong with it.
func TestGoHeapDamage(t *testing.T) {
	c, err := goHeap(Options{MiB: 1, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	h := c.actors[0].(*hoarder)
	for range 400 {
		if d, err := h.act(); d != nil || err != nil {
			t.Fatal(d, err)
		}
	}
	if pages, d, err := h.check(); pages == 0 || d != nil || err != nil {
		t.Fatalf("%d pages, %v, %v", pages, d, err)
	}
	var id uint64
	for h.keep[id] == nil {
		id++
	}
	whole := h.keep[id]
	for name, spoil := range map[string]func(){
		"a word":       func() { p := h.make(id, whole.gen); p.words[len(p.words)-1]++; h.keep[id] = p },
		"an older one": func() { h.keep[id] = h.make(id, whole.gen-1) },
		"lost":         func() { delete(h.keep, id) },
		"came back":    func() { h.keep[id] = whole; h.gens[id] = 0 },
	} {
		gen := h.gens[id]
		spoil()
		if _, d, _ := h.check(); d == nil || d.ID != id {
			t.Errorf("%s: %v", name, d)
		}
		h.keep[id], h.gens[id] = whole, gen
	}
}
