package pager

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/uffd"
)

func newStore(t *testing.T, slots int) *store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "store")
	var all []byte
	for slot := range slots {
		all = append(all, content(uint64(slot))...)
	}
	if err := os.WriteFile(path, all, 0o600); err != nil {
		t.Fatal(err)
	}
	st, err := openStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.f.Close() })
	return st
}

func (s *store) slotsAre(t *testing.T, want map[uint32]uint64) {
	t.Helper()
	for slot, seed := range want {
		b := make([]byte, pageSize)
		if err := s.read([]uint32{slot}, b); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, content(seed)) {
			t.Errorf("slot %d does not hold %d", slot, seed)
		}
	}
}

func TestStorePunchesWhatNobodyUses(t *testing.T) {
	st := newStore(t, 10)
	for _, first := range []uint32{1, 3} { // 3 and 4 have two users
		if err := st.use(first, 4); err != nil {
			t.Fatal(err)
		}
	}
	st.drop(1, 4)
	if err := st.punch(); err != nil {
		t.Fatal(err)
	}
	st.slotsAre(t, map[uint32]uint64{1: 0, 2: 0, 3: 3, 4: 4, 5: 5, 7: 7})
	st.drop(3, 4)
	if err := st.punch(); err != nil {
		t.Fatal(err)
	}
	st.slotsAre(t, map[uint32]uint64{3: 0, 4: 0, 5: 0, 6: 0, 7: 7})
	if err := st.use(5, 1); err == nil {
		t.Error("a slot without content came into use again")
	}
}

func TestStoreReadsScatteredSlots(t *testing.T) {
	st := newStore(t, 10)
	slots := []uint32{3, 4, 5, 1, 9, 8}
	b := make([]byte, len(slots)*pageSize)
	if err := st.read(slots, b); err != nil {
		t.Fatal(err)
	}
	for i, slot := range slots {
		if !bytes.Equal(b[i*pageSize:(i+1)*pageSize], content(uint64(slot))) {
			t.Errorf("slot %d is not in place %d", slot, i)
		}
	}
	if err := st.read([]uint32{9, 10}, b); err == nil {
		t.Error("read beyond the end")
	}
}

func TestFamily(t *testing.T) {
	st := newStore(t, 20)
	var absent atomic.Int64
	base := uint64(0x10000)
	f, err := newFamily(TaskPlan{7, []Extent{
		{base, 4, RemoteSlot}, {base + 4*pageSize, 2, 1}, {base + 6*pageSize, 1, ZeroSlot}, {base + 8*pageSize, 4, RemoteSlot},
	}}, st, &absent)
	if err != nil {
		t.Fatal(err)
	}
	if f.first.left.Load() != 10 || absent.Load() != 8 {
		t.Fatalf("%d missing, %d absent", f.first.left.Load(), absent.Load())
	}
	src, _ := f.first.find(base + 9*pageSize)
	if addr, first := f.ask(src); addr != base+9*pageSize || !first {
		t.Errorf("ask: %#x %v", addr, first)
	}
	if _, again := f.ask(src); again {
		t.Error("asked twice")
	}
	if err := f.use(src, 1); err != nil { // a child
		t.Fatal(err)
	}
	if err := f.arrive(Arrival{7, base + 8*pageSize, 3, 10}); err != nil {
		t.Fatal(err)
	}
	if slot, ok := f.slot(src); slot != 11 || !ok || absent.Load() != 5 {
		t.Errorf("slot %d %v, %d absent", slot, ok, absent.Load())
	}
	if err := f.arrive(Arrival{7, base + 8*pageSize, 3, 14}); err != nil { // once more, to no effect
		t.Error(err)
	}
	f.first.finish(base+8*pageSize, base+10*pageSize, f.drop)
	if err := st.punch(); err != nil {
		t.Fatal(err)
	}
	st.slotsAre(t, map[uint32]uint64{10: 0, 11: 11, 12: 12})
	f.drop(src, 1) // the child
	f.first.finish(0, maxAddr, f.drop)
	if absent.Load() != 0 {
		t.Errorf("%d absent, though nobody misses anything", absent.Load())
	}
	if err := f.arrive(Arrival{7, base, 2, 16}); err != nil { // needed by nobody any more
		t.Fatal(err)
	}
	if err := st.punch(); err != nil {
		t.Fatal(err)
	}
	st.slotsAre(t, map[uint32]uint64{1: 0, 2: 0, 11: 0, 12: 0, 16: 0, 17: 0, 18: 18})
	if absent.Load() != 0 {
		t.Errorf("%d absent", absent.Load())
	}
	for _, bad := range []Arrival{{7, base + 3*pageSize, 2, 18}, {7, base - pageSize, 1, 18}, {7, base + 11*pageSize, 1, 1}} {
		if f.arrive(bad) == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// A message that comes late, about what was unmapped before an mremap took its place, must not take what is there now.
func TestUnmapAfterRemap(t *testing.T) {
	const page = pageSize
	st := newStore(t, 200)
	var absent atomic.Int64
	f, err := newFamily(TaskPlan{1, []Extent{{100 * page, 100, 1}}}, st, &absent)
	if err != nil {
		t.Fatal(err)
	}
	s := &space{family: f, pages: f.first}
	move := func(from, to, n uint64) {
		s.pages.move(from*page, to*page, n*page, s.drop)
		s.moving = append(s.moving, moved{from * page, to * page, n * page})
	}
	missing := func(first, last uint64) bool {
		for p := first; p <= last; p++ {
			if _, ok := s.pages.find(p * page); !ok {
				return false
			}
		}
		return true
	}
	none := func(first, last uint64) bool {
		for p := first; p <= last; p++ {
			if missing(p, p) {
				return false
			}
		}
		return true
	}
	move(100, 20, 10)
	s.unmap(10*page, 25*page) // the late one
	if !missing(20, 29) {
		t.Error("pages were lost that had just been moved in")
	}
	s.unmap(15*page, 115*page) // the mremap's own, and what another thread has unmapped beside it
	if len(s.moving) != 0 || !missing(115, 199) || !none(110, 114) {
		t.Error("the unmapping of what was moved is not taken note of")
	}
	move(120, 20, 10)
	s.unmap(120*page, 130*page)
	s.unmap(22*page, 24*page) // a real one
	if !missing(20, 21) || !none(22, 23) || !missing(24, 29) {
		t.Error("a later unmapping does not count")
	}
}

// What was chosen from a map is not used on another one.
func TestPlaceRefusesWhatIsStale(t *testing.T) {
	var absent atomic.Int64
	f, err := newFamily(TaskPlan{1, []Extent{{100 * pageSize, 100, 1}}}, newStore(t, 200), &absent)
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{bell: newBell()}
	s := &space{w: w, family: f, pages: f.first, fd: 1 << 30} // no descriptor: any attempt to copy is an error
	for _, ev := range []uffd.Event{
		{Kind: uffd.EventRemap, Addr: 150 * pageSize, To: 100 * pageSize, Len: 50 * pageSize},
		{Kind: uffd.EventRemove, Start: 0, End: pageSize},
		{Kind: uffd.EventUnmap, Start: 0, End: pageSize},
	} {
		r, gen, ok := newFiller(w).claim(s, 0, maxAddr)
		if !ok {
			t.Fatal("nothing to fill")
		}
		if err := s.apply(ev); err != nil {
			t.Fatal(err)
		}
		if err := s.place(r, make([]byte, len(r.slots)*pageSize), gen); !errors.Is(err, errStale) {
			t.Errorf("after event %#x: %v, want errStale", ev.Kind, err)
		}
	}
}

func TestPlanEncoding(t *testing.T) {
	big := TaskPlan{VPID: 2}
	for i := range uint32(20000) {
		big.Extents = append(big.Extents, Extent{0x7f0000000000 + uint64(i)*3*pageSize, 2, 1 + i})
	}
	for name, p := range map[string]*Plan{
		"empty": {},
		"tasks": {Tasks: []TaskPlan{{VPID: 1, Extents: []Extent{{0x1000, 3, 5}, {0x4000, 1, RemoteSlot}}}, {VPID: 9, Extents: []Extent{}}}},
		"hot":   {Tasks: []TaskPlan{big}, Hot: []Range{{2, 0x7f0000000000, 7}, {2, 0x1000, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := p.file()
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := readPlan(f)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, p) {
				t.Errorf("%d tasks, %v", len(got.Tasks), got.Hot)
			}
			var all bytes.Buffer
			if err := p.encode(&all); err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{0, 8, all.Len() - 1} {
				if n < all.Len() {
					if _, err := decodePlan(bytes.NewReader(all.Bytes()[:n]), int64(n)); err == nil {
						t.Errorf("the first %d bytes are a plan", n)
					}
				}
			}
		})
	}
}

func TestPlanIsChecked(t *testing.T) {
	one := func(es ...Extent) *Plan { return &Plan{Tasks: []TaskPlan{{1, es}}} }
	for name, p := range map[string]*Plan{
		"unaligned": one(Extent{0x1001, 1, 1}),
		"empty":     one(Extent{0x1000, 0, 1}),
		"order":     one(Extent{0x3000, 1, 1}, Extent{0x1000, 1, 2}),
		"overlap":   one(Extent{0x1000, 3, 1}, Extent{0x3000, 1, 2}),
		"far":       one(Extent{1 << 60, 1, 1}),
		"overflow":  one(Extent{maxAddr - pageSize, 2, 1}),
		"slots":     one(Extent{0x1000, 16, RemoteSlot - 8}),
		"twice":     {Tasks: []TaskPlan{{1, nil}, {1, nil}}},
		"no pid":    {Tasks: []TaskPlan{{0, nil}}},
		"hot":       {Hot: []Range{{1, 5, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			if p.check() == nil {
				t.Error("taken")
			}
		})
	}
}

func FuzzPlan(f *testing.F) {
	var b bytes.Buffer
	p := &Plan{Tasks: []TaskPlan{{1, []Extent{{0x1000, 2, 3}}}}, Hot: []Range{{1, 0x1000, 1}}}
	if err := p.encode(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := decodePlan(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := p.encode(&again); err != nil || !bytes.HasPrefix(b, again.Bytes()) {
			t.Errorf("%+v is encoded otherwise: %v", p, err)
		}
	})
}

// What a process said before it died counts, also if it had not listened to everything.
func TestLastMessagesAreHeard(t *testing.T) {
	ours, file, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.close()
	theirs, err := newConn(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(ours.send(message{Op: opCommit}), theirs.send(message{Op: opHold, ID: 1}, 0), theirs.send(message{Op: opOver})); err != nil {
		t.Fatal(err)
	}
	theirs.close()
	m, fd, err := ours.recv()
	if err != nil || m.Op != opHold || m.ID != 1 || fd < 0 {
		t.Fatalf("%+v, descriptor %d, %v", m, fd, err)
	}
	_ = unix.Close(fd)
	if m, fd, err := ours.recv(); err != nil || m.Op != opOver || fd != -1 {
		t.Errorf("%+v, descriptor %d, %v", m, fd, err)
	}
	if _, _, err := ours.recv(); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want EOF", err)
	}
}
