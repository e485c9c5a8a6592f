package churn

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A guard changes what may be done with pages. Unreadable pages keep their content.
type guard struct {
	*field
	random
	prots []int // of each page
	reach int   // pages that are changed at once, at most
	flips int   // of eight acts, those that change protection
}

func newGuard(pages int, seed uint64, reach, flips int, first func(page int) int) (*guard, error) {
	f, err := newField(pages, seed)
	if err != nil {
		return nil, err
	}
	g := &guard{f, random(seed), make([]int, pages), reach, flips}
	for i := range g.prots {
		g.prots[i] = first(i)
		if err := protect(g.page(i), 1, g.prots[i]); err != nil {
			return nil, err
		}
	}
	return g, nil
}

var protections = [...]int{unix.PROT_NONE, unix.PROT_READ, readWrite, readWrite}

// guards have a quarter of the pages unreadable and a quarter read-only, at random.
func guards(o Options) (*cast, error) {
	first := func(page int) int { return protections[mix(o.Seed^uint64(page))%4] }
	g, err := newGuard(pagesIn(o.MiB)/4, o.Seed, 8, 4, first)
	return usual(err, g)
}

// manyVMAs has every other page read-only, so that each is a mapping of its own to the kernel.
func manyVMAs(o Options) (*cast, error) {
	const mappings = 10_000
	first := func(page int) int { return [...]int{unix.PROT_READ, readWrite}[page%2] }
	g, err := newGuard(mappings, o.Seed, 1, 1, first)
	return usual(err, g)
}

func (g *guard) act() (*Damage, error) {
	from := int(g.below(uint64(g.pages)))
	if int(g.below(8)) < g.flips {
		return g.flip(from, min(g.pages, from+1+int(g.below(uint64(g.reach)))))
	}
	d, err := g.lookAt(from)
	if d == nil && err == nil && g.prots[from] == readWrite {
		g.write(from)
	}
	return d, err
}

// flip gives pages another protection. With a reach of one it makes a page writable, writes it, and puts it back.
func (g *guard) flip(from, to int) (*Damage, error) {
	prot := protections[g.below(uint64(len(protections)))]
	if g.reach == 1 {
		prot = g.prots[from]
	}
	for i := from; i < to; i++ {
		if d, err := g.lookAt(i); d != nil || err != nil {
			return d, err
		}
	}
	if err := protect(g.page(from), to-from, readWrite); err != nil {
		return nil, err
	}
	for i := from; i < to; i++ {
		g.write(i)
		g.prots[i] = prot
	}
	return nil, protect(g.page(from), to-from, prot)
}

// lookAt checks a page, an unreadable one too, and that it is unreadable.
func (g *guard) lookAt(i int) (*Damage, error) {
	if g.prots[i] != unix.PROT_NONE {
		return g.look(i, "protected page"), nil
	}
	if d, err := g.mustBeUnreadable(i); d != nil || err != nil {
		return d, err
	}
	if err := protect(g.page(i), 1, unix.PROT_READ); err != nil {
		return nil, err
	}
	if d := g.look(i, "unreadable page"); d != nil {
		return d, nil
	}
	return nil, protect(g.page(i), 1, unix.PROT_NONE)
}

// mustBeUnreadable has the kernel read the page for the program.
func (g *guard) mustBeUnreadable(i int) (*Damage, error) {
	var word [8]byte
	local := []unix.Iovec{{Base: &word[0], Len: uint64(len(word))}}
	remote := []unix.RemoteIovec{{Base: uintptr(g.page(i)), Len: len(word)}}
	_, err := unix.ProcessVMReadv(os.Getpid(), local, remote, 0)
	switch {
	case errors.Is(err, unix.EFAULT):
		return nil, nil
	case err == nil:
		return &Damage{What: "a page that must be unreadable is not", Page: fmt.Sprintf("%p", g.page(i)), ID: uint64(i)}, nil
	}
	return nil, fmt.Errorf("read a page of its own: %w", err)
}

func (g *guard) check() (int, *Damage, error) {
	for i := range g.pages {
		if d, err := g.lookAt(i); d != nil || err != nil {
			return 0, d, err
		}
	}
	return g.pages, nil, nil
}

// A locker locks parts of its memory and unlocks them, and compares with what the kernel says is locked.
type locker struct {
	*writer
	locked []bool // for each part
}

const lockedPart = 64 // pages

func locked(o Options) (*cast, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return nil, fmt.Errorf("ask for the limit of locked memory: %w", err)
	}
	pages := pagesIn(o.MiB)
	// a part more is locked for a moment, and the C library of whoever moves the program may lock a little
	if most := limit.Cur / pageSize / 2; most < uint64(pages) {
		pages = int(most)
	}
	if pages < 2*lockedPart {
		return nil, &Unavailable{fmt.Sprintf("only %d bytes of memory can be locked", limit.Cur)}
	}
	w, err := newWriter(pages, o.Seed, "locked memory")
	if err != nil {
		return nil, err
	}
	l := &locker{w, make([]bool, pages/lockedPart)}
	for i := range l.locked {
		if err := l.flip(i); err != nil {
			return nil, err
		}
	}
	return usual(nil, l)
}

func (l *locker) act() (*Damage, error) {
	if d := l.rewrite(&l.random, l.what); d != nil {
		return d, nil
	}
	if l.below(64) > 0 {
		return nil, nil
	}
	return nil, l.flip(int(l.below(uint64(len(l.locked)))))
}

func (l *locker) flip(part int) error {
	at := asBytes(l.page(part*lockedPart), lockedPart)
	var err error
	switch {
	case l.locked[part]:
		err = unix.Munlock(at)
	case part%2 == 0:
		err = unix.Mlock(at)
	default:
		err = mlock2(at)
	}
	if err != nil {
		return fmt.Errorf("lock or unlock %d pages: %w", lockedPart, err)
	}
	l.locked[part] = !l.locked[part]
	return nil
}

// check also compares how much is locked.
func (l *locker) check() (int, *Damage, error) {
	pages, d := l.lookAll(l.what)
	if d != nil {
		return 0, d, nil
	}
	want := 0
	for _, is := range l.locked {
		if is {
			want += lockedPart * pageSize >> 10
		}
	}
	found, err := lockedKiB()
	if err != nil {
		return 0, nil, err
	}
	if found != want {
		return 0, &Damage{What: "locked memory, KiB", Found: strconv.Itoa(found), Want: strconv.Itoa(want)}, nil
	}
	return pages, nil, nil
}

func lockedKiB() (int, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, fmt.Errorf("ask for how much memory is locked: %w", err)
	}
	_, after, _ := strings.Cut(string(text), "VmLck:")
	fields := strings.Fields(after)
	if len(fields) == 0 {
		return 0, errors.New("ask for how much memory is locked: the kernel does not say")
	}
	return strconv.Atoi(fields[0])
}
