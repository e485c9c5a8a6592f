package pages

import (
	"io"
	"math/rand/v2"
	"testing"
)

// What is missing is exactly what the table does not have.
func TestMissing(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	table := NewTable(64<<20, 0)
	e := NewEncoder(table, io.Discard)
	p := make([]byte, PageSize)
	const span = 4000
	for range 30 {
		start, n := uint64(rnd.IntN(span)), uint64(rnd.IntN(300))
		for i := start; i < start+n; i++ {
			p[0], p[1] = byte(i), byte(i>>8)
			if err := e.Pages(7, i, p); err != nil {
				t.Fatal(err)
			}
		}
		table.Void(7, uint64(rnd.IntN(span)), uint64(rnd.IntN(100)))
		page, want := uint64(rnd.IntN(span)), uint64(rnd.IntN(span))
		missing := map[uint64]bool{}
		last := uint64(0)
		table.Missing(7, page, want, func(at, n uint64) {
			if at < last || n == 0 {
				t.Fatalf("run %d+%d after %d", at, n, last)
			}
			last = at + n
			for i := at; i < at+n; i++ {
				missing[i] = true
			}
		})
		for i := page; i < page+want; i++ {
			if missing[i] == table.Has(7, i) {
				t.Fatalf("page %d: missing %v, table has it: %v", i, missing[i], table.Has(7, i))
			}
		}
		if uint64(len(missing)) > want {
			t.Fatalf("%d pages are missing of %d", len(missing), want)
		}
	}
	all := 0
	table.Missing(8, 0, 1000, func(_, n uint64) { all += int(n) })
	if all != 1000 {
		t.Errorf("%d of 1000 pages of an unknown space are missing", all)
	}
}
