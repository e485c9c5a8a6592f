package pager

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

// modelMap is a pageMap as simple as can be: sources by page number.
type modelMap map[uint64]source

// universe is how many pages the maps of these tests reach over.
const universe = 400

// checked is a pageMap together with its model; users counts who needs a source.
type checked struct {
	t     *testing.T
	m     *pageMap
	model modelMap
	users map[source]int
}

func (c *checked) gone(src source, n uint32) {
	for i := range n {
		s := source{src.first + i, src.remote}
		if c.users[s]--; c.users[s] < 0 {
			c.t.Errorf("%v is given up more often than it is used", s)
		}
	}
}

func (c *checked) use(src source, n uint32) {
	for i := range n {
		c.users[source{src.first + i, src.remote}]++
	}
}

// randomMap has extents of any length, with and without gaps.
func randomMap(t *testing.T, rng *rand.Rand) *checked {
	c := &checked{t: t, model: modelMap{}, users: map[source]int{}}
	var ext []extent
	var bit uint32
	for page := uint64(rng.IntN(10)); page < universe; {
		n := min(uint64(1+rng.IntN(40)), universe-page)
		src := source{uint32(1 + rng.IntN(1000)), rng.IntN(3) == 0}
		ext = append(ext, extent{page * pageSize, uint32(n), bit, src})
		for i := range n {
			c.model[page+i] = source{src.first + uint32(i), src.remote}
		}
		c.use(src, uint32(n))
		bit += uint32(n)
		page += n + uint64(rng.IntN(3)*rng.IntN(10))
	}
	c.m = newPageMap(ext)
	return c
}

// step does the same to the map and to its model.
func (c *checked) step(op, a, b, n uint64) {
	a, b, n = a%universe, b%universe, 1+n%50
	switch op % 4 {
	case 0, 1:
		want := 0
		for i := a; i < a+n; i++ {
			if _, ok := c.model[i]; ok {
				want++
				delete(c.model, i)
			}
		}
		if got := c.m.finish(a*pageSize, (a+n)*pageSize, c.gone); got != want {
			c.t.Errorf("finish %d+%d: %d pages, want %d", a, n, got, want)
		}
	case 2:
		if a < b+n && b < a+n {
			return // mremap refuses that
		}
		c.m.move(a*pageSize, b*pageSize, n*pageSize, c.gone)
		for i := range n {
			delete(c.model, b+i)
			if s, ok := c.model[a+i]; ok {
				c.model[b+i] = s
				delete(c.model, a+i)
			}
		}
	case 3:
		c.m.each(func(src source, n uint32) { c.use(src, n) })
		old := c.m
		c.m = old.copy()
		old.finish(0, maxAddr, c.gone) // must not reach the copy
	}
}

func (c *checked) check() {
	c.t.Helper()
	users := map[source]int{}
	for page := range uint64(universe + 60) {
		got, ok := c.m.find(page * pageSize)
		want, known := c.model[page]
		if ok != known || ok && got != want {
			c.t.Fatalf("page %d: %v %v, want %v %v", page, got, ok, want, known)
		}
		if known {
			users[want]++
		}
	}
	if left := c.m.left.Load(); left != int64(len(c.model)) {
		c.t.Fatalf("%d left, want %d", left, len(c.model))
	}
	maps.DeleteFunc(c.users, func(_ source, n int) bool { return n == 0 })
	if !maps.Equal(users, c.users) {
		c.t.Fatalf("users %v, want %v", c.users, users)
	}
	for i := 1; i < len(c.m.ext); i++ {
		if c.m.ext[i].addr < c.m.ext[i-1].end() {
			c.t.Fatalf("extents %+v and %+v are out of order", c.m.ext[i-1], c.m.ext[i])
		}
	}
	c.checkRuns()
}

// checkRuns collects all runs and compares: remote pages with an even number are here, some of them zeros.
func (c *checked) checkRuns() {
	c.t.Helper()
	slot := func(s source) (uint32, bool) {
		if s.first%6 == 0 {
			return ZeroSlot, true
		}
		return s.first + 5000, s.first%2 == 0
	}
	got := map[uint64]uint32{}
	for from := uint64(0); ; {
		r, ok := c.m.next(from, maxAddr, 7, slot, nil)
		if !ok {
			break
		}
		if r.addr < from || len(r.slots) > 7 {
			c.t.Fatalf("run %+v from %#x on", r, from)
		}
		if n := c.m.still(r.addr, len(r.slots)); n != len(r.slots) {
			c.t.Fatalf("still %d of run %+v", n, r)
		}
		for i, s := range r.slots {
			if (s == ZeroSlot) != r.zero {
				c.t.Fatalf("run %+v is mixed", r)
			}
			got[r.addr/pageSize+uint64(i)] = s
		}
		from = r.end()
	}
	want := map[uint64]uint32{}
	for page, s := range c.model {
		n, ok := s.first, true
		if s.remote {
			n, ok = slot(s)
		}
		if ok {
			want[page] = n
		}
	}
	if !maps.Equal(got, want) {
		c.t.Fatalf("runs %v, want %v", got, want)
	}
}

func TestPageMap(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		c := randomMap(t, rng)
		c.check()
		for range 30 {
			c.step(rng.Uint64(), rng.Uint64(), rng.Uint64(), rng.Uint64())
			c.check()
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func FuzzPageMap(f *testing.F) {
	f.Add(uint64(1), []byte{2, 10, 200, 30, 0, 205, 0, 3, 3, 0, 0, 0, 2, 200, 1, 49})
	f.Fuzz(func(t *testing.T, seed uint64, ops []byte) {
		c := randomMap(t, rand.New(rand.NewPCG(seed, 1)))
		for ; len(ops) >= 4; ops = ops[4:] {
			c.step(uint64(ops[0]), 2*uint64(ops[1]), 2*uint64(ops[2]), uint64(ops[3]))
			c.check()
		}
	})
}

// Copies share extents, and must not see what becomes of the other's.
func TestPageMapCopy(t *testing.T) {
	c := randomMap(t, rand.New(rand.NewPCG(3, 3)))
	other := &checked{t: t, m: c.m.copy(), model: maps.Clone(c.model), users: maps.Clone(c.users)}
	c.step(2, 10, 300, 40)
	c.step(0, 0, 0, 49)
	other.check()
	other.step(2, 100, 200, 40)
	c.check()
	other.check()
}

// still stops where pages are done or unknown.
func TestStill(t *testing.T) {
	m := newPageMap([]extent{{0, 10, 0, source{1, false}}, {10 * pageSize, 5, 10, source{100, false}}, {20 * pageSize, 5, 15, source{50, false}}})
	m.finish(12*pageSize, 13*pageSize, func(source, uint32) {})
	for _, c := range []struct {
		page uint64
		n    int
		want int
	}{{0, 30, 12}, {0, 3, 3}, {12, 5, 0}, {13, 30, 2}, {16, 4, 0}, {24, 9, 1}, {30, 1, 0}} {
		t.Run(fmt.Sprint(c.page), func(t *testing.T) {
			if got := m.still(c.page*pageSize, c.n); got != c.want {
				t.Errorf("still %d, want %d", got, c.want)
			}
		})
	}
}
