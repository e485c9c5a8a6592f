package churn

import "unsafe"

// A field is pages that are written at random, with the generation of each. Both lie in mappings, so that forked children
// have copies of both.
type field struct {
	at    unsafe.Pointer
	gens  unsafe.Pointer // a uint64 for each page
	pages int
	seed  uint64
}

// newField maps a field; half of it is written, the rest is empty.
func newField(pages int, seed uint64) (*field, error) {
	at, err := mapPages(pages)
	if err != nil {
		return nil, err
	}
	f, err := fieldAt(at, pages, seed)
	if err != nil {
		return nil, err
	}
	f.sow()
	return f, nil
}

// fieldAt is a field in a mapping whose content is zeros.
func fieldAt(at unsafe.Pointer, pages int, seed uint64) (*field, error) {
	gens, err := mapPages(8*pages/pageSize + 1)
	return &field{at, gens, pages, seed}, err
}

// sow writes the first half.
func (f *field) sow() {
	for i := range f.pages / 2 {
		f.write(i)
	}
}

//go:nosplit
//go:norace
func (f *field) page(i int) unsafe.Pointer { return pageAt(f.at, i) }

//go:nosplit
//go:norace
func (f *field) gen(i int) *uint64 { return wordAt(f.gens, uint64(i)) }

// write gives a page its next generation.
//
//go:nosplit
//go:norace
func (f *field) write(i int) {
	*f.gen(i)++
	fill(f.page(i), f.seed, uint64(i), *f.gen(i))
}

// wrong returns the first wrong word of a page, or -1.
//
//go:nosplit
//go:norace
func (f *field) wrong(i int) int {
	return wrong(f.page(i), f.seed, uint64(i), *f.gen(i), pageWords)
}

// firstWrong returns the first wrong page, or -1.
//
//go:nosplit
//go:norace
func (f *field) firstWrong() int {
	for i := 0; i < f.pages; i++ {
		if f.wrong(i) >= 0 {
			return i
		}
	}
	return -1
}

// look checks a page.
func (f *field) look(i int, what string) *Damage {
	if at := f.wrong(i); at >= 0 {
		return damaged(what, f.page(i), f.seed, uint64(i), *f.gen(i), at)
	}
	return nil
}

// lookAll checks every page and returns how many these are.
func (f *field) lookAll(what string) (int, *Damage) {
	if i := f.firstWrong(); i >= 0 {
		return 0, f.look(i, what)
	}
	return f.pages, nil
}

// rewrite checks a page and writes it, and looks at another one.
func (f *field) rewrite(r *random, what string) *Damage {
	n := uint64(f.pages)
	if d := f.look(int(r.below(n)), what); d != nil {
		return d
	}
	i := int(r.below(n))
	if r.below(4) > 0 {
		i /= 8 // some are written often
	}
	if d := f.look(i, what); d != nil {
		return d
	}
	f.write(i)
	return nil
}
