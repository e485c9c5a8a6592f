package precopy

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/pages"
	"migrate/internal/track"
)

const vpid = 5

// memory is a piece of this process's memory that plays a container, and the tracker that follows it.
type memory struct {
	data    []byte
	written map[uint64]bool // pages since the last scan, by index
	void    []track.Range
	reset   bool
	lie     []uint64 // pages that the last look does not call clean though nobody wrote them
}

func newMemory(t *testing.T, n int) *memory {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n*track.PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	m := &memory{data: b, written: map[uint64]bool{}, reset: true}
	for i := range uint64(n) {
		m.written[i] = true
	}
	return m
}

func (m *memory) base() uint64 { return uint64(uintptr(unsafe.Pointer(&m.data[0]))) }
func (m *memory) count() int   { return len(m.data) / track.PageSize }

func (m *memory) page(i uint64) []byte { return m.data[i*track.PageSize : (i+1)*track.PageSize] }

func (m *memory) write(rnd *rand.Rand, i uint64) {
	p := m.page(i)
	switch rnd.IntN(4) {
	case 0:
		clear(p)
	case 1: // one of few contents
		copy(p, bytes.Repeat([]byte{byte(1 + rnd.IntN(5))}, track.PageSize))
	default:
		for k := range p {
			p[k] = byte(rnd.Uint32())
		}
	}
	m.written[i] = true
}

func (m *memory) rangeOf(i uint64) track.Range {
	return track.Range{Start: m.base() + i*track.PageSize, End: m.base() + (i+1)*track.PageSize}
}

func (m *memory) list(want func(i uint64) bool) []track.Range {
	var out []track.Range
	for i := range uint64(m.count()) {
		if !want(i) {
			continue
		}
		r := m.rangeOf(i)
		if n := len(out); n > 0 && out[n-1].End == r.Start {
			out[n-1].End = r.End
		} else {
			out = append(out, r)
		}
	}
	return out
}

func (m *memory) Name() string { return "test" }

func (m *memory) Scan(context.Context) ([]track.Proc, error) {
	p := track.Proc{Pid: os.Getpid(), VPid: vpid, Reset: m.reset, Void: m.void, Pages: m.list(func(i uint64) bool { return m.written[i] })}
	m.written, m.void, m.reset = map[uint64]bool{}, nil, false
	return []track.Proc{p}, nil
}

func (m *memory) Still(ctx context.Context) ([]track.Proc, error) { return m.Scan(ctx) }

func (m *memory) Copied(int, []track.Range, []byte) {}

func (m *memory) Final(context.Context) ([]track.Proc, error) {
	return []track.Proc{{Pid: os.Getpid(), VPid: vpid, Pages: m.list(func(i uint64) bool {
		return !m.written[i] && !slices.Contains(m.lie, i)
	})}}, nil
}

func (m *memory) Close() error { return nil }

// link carries rounds into a store as the agents do.
type link struct {
	t     *testing.T
	store *pages.Store
	wg    sync.WaitGroup
	mu    sync.Mutex
	err   error
}

type pipe struct {
	*io.PipeWriter
	l      *link
	sum    *func() [32]byte
	stored chan *pages.Applier // nil: it was not
}

func (p pipe) Wire() int64 { return 1 }

func (p pipe) SumBy(sum func() [32]byte) { *p.sum = sum }

// Close is the end of a part, which has to have arrived as it was sent.
func (p pipe) Close() error {
	err := p.PipeWriter.Close()
	if got := <-p.stored; got != nil && got.Sum() != (*p.sum)() {
		p.l.t.Error("what was stored is not what was sent")
	}
	return err
}

func (p pipe) Abandon() { _ = p.CloseWithError(io.ErrUnexpectedEOF) }

func (l *link) open(_ context.Context, p Part) (Stream, error) {
	r, w := io.Pipe()
	stored := make(chan *pages.Applier, 1)
	l.wg.Add(1)
	go func() {
		defer l.wg.Done()
		a := l.store.Applier(p.Key)
		defer close(stored)
		if err := a.Apply(r); err != nil {
			l.mu.Lock()
			l.err = err
			l.mu.Unlock()
			_ = r.CloseWithError(err)
			return
		}
		stored <- a
	}()
	return pipe{w, l, new(func() [32]byte), stored}, nil
}

func (l *link) stored(context.Context, int) error {
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func newCopier(t *testing.T, m *memory) (*Copier, *pages.Store) {
	t.Helper()
	const limit = 64 << 20
	store, err := pages.NewStore(filepath.Join(t.TempDir(), "store"), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	l := &link{t: t, store: store}
	return New(Options{Tracker: m, Table: pages.NewTable(limit, pages.DefaultDeltaCache), Workers: 3, Open: l.open, Stored: l.stored}), store
}

// Whatever is written between the rounds, in the end the store has what memory has.
func TestCopyEndsEqual(t *testing.T) {
	for seed := range uint64(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		m := newMemory(t, 700)
		c, store := newCopier(t, m)
		for range 1 + rnd.IntN(6) {
			if _, err := c.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range rnd.IntN(300) {
				m.write(rnd, uint64(rnd.IntN(m.count())))
			}
			if rnd.IntN(3) == 0 { // mapped anew: read as zeros, and not marked as written
				i := uint64(rnd.IntN(m.count()))
				clear(m.page(i))
				delete(m.written, i)
				m.void = append(m.void, m.rangeOf(i))
			}
		}
		if rnd.IntN(2) == 0 {
			if r, err := c.FrozenRound(t.Context(), true); err != nil || !r.Frozen {
				t.Fatal(r, err)
			}
		}
		for range rnd.IntN(5) { // as CRIU does
			m.write(rnd, uint64(rnd.IntN(m.count())))
		}
		for _, v := range m.void { // no scan came after these
			for i := range uint64(m.count()) {
				if m.rangeOf(i) == v {
					m.lie = append(m.lie, i)
				}
			}
		}
		space := Space{Pid: os.Getpid(), VPid: vpid, Ranges: m.list(func(i uint64) bool { return i%9 != 4 })}
		rest, err := c.Rest(t.Context(), []Space{space}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, track.PageSize)
		for i := range uint64(m.count()) {
			if i%9 == 4 {
				continue // not asked for
			}
			if err := store.ReadPage(vpid, m.rangeOf(i).Start/track.PageSize, got); err != nil {
				t.Fatalf("seed %d, page %d: %v", seed, i, err)
			}
			if !bytes.Equal(got, m.page(i)) {
				t.Fatalf("seed %d: page %d differs (%+v)", seed, i, rest)
			}
		}
	}
}

// A page that the tracker calls clean is sent all the same when the destination does not have it.
func TestRestTrustsNobodyAlone(t *testing.T) {
	m := newMemory(t, 64)
	c, store := newCopier(t, m)
	rnd := rand.New(rand.NewPCG(3, 4))
	for i := range uint64(64) {
		m.write(rnd, i)
	}
	if _, err := c.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.o.Table.Void(vpid, m.rangeOf(10).Start/track.PageSize, 3)
	r, err := c.Rest(t.Context(), []Space{{Pid: os.Getpid(), VPid: vpid, Ranges: m.list(func(uint64) bool { return true })}}, nil)
	if err != nil || r.Pages != 3 {
		t.Errorf("sent %d pages, %v, want 3", r.Pages, err)
	}
	got := make([]byte, track.PageSize)
	if err := store.ReadPage(vpid, m.rangeOf(11).Start/track.PageSize, got); err != nil || !bytes.Equal(got, m.page(11)) {
		t.Errorf("the page did not arrive: %v", err)
	}
}

// Pages that vanish before they are read are no failure while the container runs, and one when it stands still.
func TestVanishedPages(t *testing.T) {
	m := newMemory(t, 64)
	c, store := newCopier(t, m)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range uint64(64) {
		m.write(rnd, i)
	}
	if err := unix.Mprotect(m.data[20*track.PageSize:24*track.PageSize], unix.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	hole := m.data[30*track.PageSize : 33*track.PageSize]
	if _, _, errno := unix.Syscall(unix.SYS_MUNMAP, uintptr(unsafe.Pointer(&hole[0])), uintptr(len(hole)), 0); errno != 0 {
		t.Fatal(errno)
	}
	if _, err := c.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(64) {
		_, ok := store.Lookup(vpid, m.rangeOf(i).Start/track.PageSize)
		if want := i < 30 || i >= 33; ok != want { // what may not be read by its owner may still be copied
			t.Errorf("page %d: stored is %v", i, ok)
		}
	}
	if _, err := c.Rest(t.Context(), []Space{{Pid: os.Getpid(), VPid: vpid, Ranges: m.list(func(uint64) bool { return true })}}, nil); err == nil {
		t.Error("a page that cannot be read was sealed")
	}
}

func TestCut(t *testing.T) {
	const mib = 1 << 20
	ranges := []track.Range{{Start: 0, End: 3*mib + 4096}, {Start: 8 * mib, End: 8*mib + 8192}, {Start: 9 * mib, End: 10 * mib}}
	jobs := cut(nil, job{pid: 7, space: 5}, ranges)
	var back []track.Range
	for _, j := range jobs {
		if j.bytes() > batch || j.bytes() == 0 || j.pid != 7 || j.space != 5 {
			t.Errorf("job %+v", j)
		}
		for _, r := range j.ranges {
			if n := len(back); n > 0 && back[n-1].End == r.Start {
				back[n-1].End = r.End
			} else {
				back = append(back, r)
			}
		}
	}
	if !slices.Equal(back, ranges) {
		t.Errorf("%v became %v", ranges, back)
	}
}
