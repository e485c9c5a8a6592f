package precopy

import (
	"bytes"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/pages"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// piece is shared memory of this process, and what it should hold.
type piece struct {
	t    *testing.T
	fd   int
	id   uint64
	want []byte
}

func newPiece(t *testing.T, pages int) *piece {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	p := &piece{t: t, fd: fd, id: st.Ino}
	p.resize(pages)
	return p
}

func (p *piece) pages() int { return len(p.want) / track.PageSize }

func (p *piece) resize(pages int) {
	p.t.Helper()
	if err := unix.Ftruncate(p.fd, int64(pages)*track.PageSize); err != nil {
		p.t.Fatal(err)
	}
	p.want = append(p.want, make([]byte, max(pages-p.pages(), 0)*track.PageSize)...)[:pages*track.PageSize]
}

func (p *piece) page(i int) []byte { return p.want[i*track.PageSize : (i+1)*track.PageSize] }

func (p *piece) write(i int, b byte) {
	p.t.Helper()
	copy(p.page(i), bytes.Repeat([]byte{b}, 700))
	if _, err := unix.Pwrite(p.fd, p.page(i), int64(i)*track.PageSize); err != nil {
		p.t.Fatal(err)
	}
}

func (p *piece) punch(i, n int) {
	p.t.Helper()
	err := unix.Fallocate(p.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(i)*track.PageSize, int64(n)*track.PageSize)
	if err != nil {
		p.t.Fatal(err)
	}
	clear(p.want[i*track.PageSize : (i+n)*track.PageSize])
}

// newSharedCopier copies the shared memory of this process alone.
func newSharedCopier(t *testing.T) (*Copier, *pages.Store) {
	t.Helper()
	c, store := newCopier(t, newMemory(t, 1))
	set, err := shmem.NewSet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = set.Close() })
	c.o.Shared = func() ([]*shmem.Object, error) { return set.Find([]int{os.Getpid()}) }
	return c, store
}

// holds says what the store has of a piece: what is there must be right.
func (p *piece) holds(store *pages.Store) (known []int) {
	p.t.Helper()
	got := make([]byte, track.PageSize)
	for i := range p.pages() {
		if _, ok := store.Lookup(shmem.Space(p.id), uint64(i)); !ok {
			continue
		}
		known = append(known, i)
		if err := store.ReadPage(shmem.Space(p.id), uint64(i), got); err != nil || !bytes.Equal(got, p.page(i)) {
			p.t.Errorf("page %d differs, %v", i, err)
		}
	}
	return known
}

func TestSharedRounds(t *testing.T) {
	c, store := newSharedCopier(t)
	p := newPiece(t, 600)
	for i := 0; i < 500; i += 2 {
		p.write(i, byte(i))
	}
	r, err := c.Round(t.Context())
	if err != nil || r.Pages < 250 || r.Shared < 250 {
		t.Fatalf("%+v, %v", r, err)
	}
	if known := p.holds(store); len(known) != 250 { // holes are left alone
		t.Errorf("the store has %d pages", len(known))
	}
	p.write(7, 7)
	p.write(8, 9)
	p.punch(100, 21)
	p.resize(300)
	if r, err = c.Round(t.Context()); err != nil || r.Shared >= 250 || r.Pages > 20 {
		t.Fatalf("%+v, %v", r, err) // what did not change was not sent; other tests' memory may come and go
	}
	var want []int
	for i := 0; i < 300; i++ {
		if (i%2 == 0 || i == 7) && (i < 100 || i > 120) {
			want = append(want, i)
		}
	}
	if known := p.holds(store); !slices.Equal(known, want) {
		t.Errorf("the store has pages %v, want %v", known, want)
	}
	if _, ok := store.Lookup(shmem.Space(p.id), 400); ok {
		t.Error("what was cut off is still there")
	}
}

func TestSharedEndsEqual(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		c, store := newSharedCopier(t)
		p := newPiece(t, 200)
		churn := func() {
			for range rnd.IntN(100) {
				switch i := rnd.IntN(p.pages()); rnd.IntN(8) {
				case 0:
					p.punch(i, min(1+rnd.IntN(5), p.pages()-i))
				case 1:
					p.resize(100 + rnd.IntN(200))
				default:
					p.write(i, byte(rnd.Uint32()))
				}
			}
		}
		for range rnd.IntN(4) {
			churn()
			if _, err := c.Round(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		churn()
		if r, err := c.FrozenRound(t.Context(), rnd.IntN(2) == 0); err != nil || !r.Frozen {
			t.Fatal(r, err)
		}
		o, err := shmem.Open(os.Getpid(), p.id, shmem.Handle{VPid: os.Getpid(), FD: p.fd})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		data, _, err := o.Data()
		if err != nil {
			t.Fatal(err)
		}
		late := rnd.IntN(2) == 0 // whether something is written to the bitter end
		if late && len(data) > 0 {
			p.write(int(data[0].Start/track.PageSize), 0xee)
		}
		if _, err := c.Rest(t.Context(), nil, []Shared{{Object: o, Ranges: data, All: late}}); err != nil {
			t.Fatal(err)
		}
		var want []int
		for _, r := range data {
			for a := r.Start; a < r.End; a += track.PageSize {
				want = append(want, int(a/track.PageSize))
			}
		}
		if known := p.holds(store); !slices.Equal(known, want) {
			t.Errorf("seed %d: the store has pages %v, want %v", seed, known, want)
		}
	}
}

// Memory that goes is forgotten, and memory that takes its place under the same number is another one.
func TestSharedGoes(t *testing.T) {
	c, store := newSharedCopier(t)
	p := newPiece(t, 10)
	p.write(3, 3)
	if _, err := c.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(p.holds(store)) != 1 {
		t.Fatal("it was not copied")
	}
	c.o.Shared = func() ([]*shmem.Object, error) { return nil, nil }
	if _, err := c.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if known := p.holds(store); len(known) != 0 {
		t.Errorf("the store has pages %v", known)
	}
}
