package precopy

import (
	"bytes"
	"math/rand/v2"
	"os"
	"testing"

	"migrate/internal/track"
)

// What is left behind is unknown to the store, and what is not left is in it as memory has it.
func TestLeave(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		m := newMemory(t, 500)
		c, store := newCopier(t, m)
		for range 1 + rnd.IntN(3) {
			if _, err := c.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range rnd.IntN(200) {
				m.write(rnd, uint64(rnd.IntN(m.count())))
			}
		}
		unknown := m.rangeOf(uint64(rnd.IntN(m.count())))
		m.lie = append(m.lie, (unknown.Start-m.base())/track.PageSize)
		wanted := func(i uint64) bool { return i%7 != 2 }
		spaces, rep, err := c.Leave(t.Context(), []Space{{Pid: os.Getpid(), VPid: vpid, Ranges: m.list(wanted)}})
		if err != nil {
			t.Fatal(err)
		}
		stays := map[uint64]bool{}
		for _, r := range spaces[0].Ranges {
			for a := r.Start; a < r.End; a += track.PageSize {
				stays[a] = true
			}
		}
		if rep.RestPages != int64(len(stays)) || !rep.Frozen {
			t.Errorf("seed %d: %d pages stay, the report is %+v", seed, len(stays), rep)
		}
		got := make([]byte, track.PageSize)
		for i := range uint64(m.count()) {
			at := m.rangeOf(i).Start
			_, known := store.Lookup(vpid, at/track.PageSize)
			switch {
			case !wanted(i):
			case stays[at] == known:
				t.Errorf("seed %d: page %d stays: %v, and the store knows it: %v", seed, i, stays[at], known)
			case m.written[i] != stays[at] && at != unknown.Start:
				t.Errorf("seed %d: page %d was written: %v, and stays: %v", seed, i, m.written[i], stays[at])
			case known:
				if err := store.ReadPage(vpid, at/track.PageSize, got); err != nil || !bytes.Equal(got, m.page(i)) {
					t.Errorf("seed %d: page %d differs: %v", seed, i, err)
				}
			}
		}
		// again: there is nothing more to forget, and so nothing to be sent
		seq := c.seq
		if _, _, err := c.Leave(t.Context(), spaces); err != nil || c.seq != seq {
			t.Errorf("seed %d: %d rounds, %v", seed, c.seq-seq, err)
		}
	}
}
