package churn

import (
	"strings"
	"testing"
)

// TestContent checks that all kinds of content occur and that no change of a word goes unnoticed.
func TestContent(t *testing.T) {
	page, err := mapPages(1)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[uint64]int{}
	for id := range uint64(200) {
		gen := 1 + id%7
		kinds[digest(5, id, gen)>>60]++
		fill(page, 5, id, gen)
		if at := wrong(page, 5, id, gen, pageWords); at >= 0 {
			t.Fatalf("page %d as it was written is wrong at word %d", id, at)
		}
		i := mix(id) % pageWords
		*wordAt(page, i) ^= 1 << (id % 64)
		if at := wrong(page, 5, id, gen, pageWords); at != int(i) {
			t.Errorf("page %d with a wrong word %d: found %d", id, i, at)
		}
	}
	if len(kinds) != 16 {
		t.Errorf("not all kinds of content occur: %v", kinds)
	}
	fill(page, 5, 1, 0)
	if wrong(page, 0, 0, 0, pageWords) >= 0 {
		t.Error("generation 0 is not zeros")
	}
}

// TestDamage checks what a person is told about a page that is old, lost or another one.
func TestDamage(t *testing.T) {
	f, err := newField(64, 3)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for digest(f.seed, uint64(i), 8)>>60 <= kindDelta || digest(f.seed, uint64(i), 9)>>60 <= kindDelta || digest(f.seed, uint64(i), 10)>>60 <= kindDelta {
		i++
	}
	for *f.gen(i) < 9 {
		f.write(i)
	}
	if d := f.look(i, "field"); d != nil {
		t.Fatalf("a page that is right: %v", d)
	}
	for _, c := range []struct {
		is      string
		id, gen uint64
	}{
		{"zeros", uint64(i), 0}, {"generation 8, 1 before", uint64(i), 8}, {"the next generation", uint64(i), 10},
		{"begins like id 77", 77, firstRandom(f.seed, 77)},
	} {
		fill(f.page(i), f.seed, c.id, c.gen)
		d := f.look(i, "field")
		if d == nil || !strings.HasPrefix(d.Is, c.is) || d.What != "field" || d.Found == d.Want {
			t.Errorf("instead of %q: %v", c.is, d)
		}
	}
	if n, d := f.lookAll("field"); n != 0 || d == nil {
		t.Errorf("all pages with one wrong: %d, %v", n, d)
	}
}

// firstRandom is the first generation whose content is random numbers.
func firstRandom(seed, id uint64) uint64 {
	gen := uint64(1)
	for digest(seed, id, gen)>>60 <= kindDelta {
		gen++
	}
	return gen
}

// TestStorm holds the storm's arithmetic to a plain account of what it has written.
func TestStorm(t *testing.T) {
	s := &storm{seed: 2}
	for _, end := range []uint64{0, 1, 2, 3, 511, 512, 513, 514, 1024, 1025, 1600} {
		var last [pageWords]uint64
		for pass := uint64(1); pass < end; pass++ {
			last[pass%pageWords] = pass
		}
		for word, want := range last {
			if got := s.last(uint64(word), end); got != want {
				t.Fatalf("word %d before pass %d: pass %d, want %d", word, end, got, want)
			}
		}
	}
	c, err := writeStorm(Options{MiB: 1, Seed: 2})
	if err != nil {
		t.Fatal(err)
	}
	s = c.actors[0].(*storm)
	for s.pass < 530 {
		if d, _ := s.act(); d != nil {
			t.Fatal(d)
		}
	}
	if pages, d, _ := s.check(); pages != s.pages || d != nil {
		t.Fatalf("%d pages, %v", pages, d)
	}
	*wordAt(pageAt(s.at, 77), 300)++
	if _, d, _ := s.check(); d == nil || d.ID != 77 || d.Offset != 2400 {
		t.Errorf("a wrong word: %v", d)
	}
}

// TestSettle checks what is allowed of a page that was freed lazily.
func TestSettle(t *testing.T) {
	g, err := newGiver(1, 9, false)
	if err != nil {
		t.Fatal(err)
	}
	p := g.at
	for name, c := range map[string]struct {
		before func()
		bad    bool
	}{
		"as it was":        {before: func() {}},
		"zeros":            {before: func() { fill(p, 0, 0, 0) }},
		"half of it zeros": {before: func() { *wordAt(p, 300) ^= 7 }, bad: true},
		"zeros, then content again": {bad: true, before: func() {
			fill(p, 0, 0, 0)
			if d := g.look(0); d != nil {
				t.Errorf("zeros: %v", d)
			}
			fill(p, g.seed, 0, g.writes)
		}},
		"zeros but for what was written since": {before: func() { g.poke(0, 1); w := g.states[0].poke; fill(p, 0, 0, 0); *wordAt(p, pageWords-1) = w }},
		"zeros, and what was written since":    {before: func() { g.poke(0, 1); fill(p, 0, 0, 0) }, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			for g.write(0, 1); digest(g.seed, 0, g.writes)>>60 <= kindDelta; g.write(0, 1) {
			}
			g.states[0].maybe = true // as after a call that would also free it
			c.before()
			if d := g.look(0); (d != nil) != c.bad {
				t.Errorf("damage %v", d)
			}
		})
	}
}
