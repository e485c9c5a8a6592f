package postcopy

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"sort"
)

// PageSize is the size of a page in bytes.
const PageSize = 4096

// Run is consecutive pages of one process.
type Run struct {
	VPID  int32  // the process's pid in its own namespace
	Page  uint64 // address / PageSize
	Pages uint32
}

func (r Run) end() uint64 { return r.Page + uint64(r.Pages) }

// index numbers the pages of runs, ascending by process and page.
type index struct {
	runs  []numbered
	total uint32
}

type numbered struct {
	Run
	first uint32
}

// newIndex sorts a copy of runs.
func newIndex(runs []Run) (*index, error) {
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b Run) int { return cmp.Or(cmp.Compare(a.VPID, b.VPID), cmp.Compare(a.Page, b.Page)) })
	x := &index{runs: make([]numbered, 0, len(sorted))}
	for i, r := range sorted {
		switch {
		case r.Pages == 0 || r.Page >= maxPage || r.end() > maxPage:
			return nil, fmt.Errorf("%d pages of process %d from %#x are no run of pages", r.Pages, r.VPID, r.Page)
		case i > 0 && sorted[i-1].VPID == r.VPID && sorted[i-1].end() > r.Page:
			return nil, fmt.Errorf("page %#x of process %d is in two runs", r.Page, r.VPID)
		case uint64(x.total)+uint64(r.Pages) > math.MaxInt32:
			return nil, fmt.Errorf("%d pages and more are too many", x.total)
		}
		x.runs = append(x.runs, numbered{r, x.total})
		x.total += r.Pages
	}
	return x, nil
}

// number finds a page; false: it is in no run.
func (x *index) number(vpid int32, page uint64) (uint32, bool) {
	i := sort.Search(len(x.runs), func(i int) bool {
		r := x.runs[i]
		return r.VPID > vpid || r.VPID == vpid && r.end() > page
	})
	if i == len(x.runs) || x.runs[i].VPID != vpid || x.runs[i].Page > page {
		return 0, false
	}
	return x.runs[i].first + uint32(page-x.runs[i].Page), true
}

// numbers finds all pages of a run, which may span several of the index's if they follow each other.
func (x *index) numbers(r Run) (first uint32, ok bool) {
	if r.Pages == 0 || r.Page >= maxPage {
		return 0, false
	}
	first, ok = x.number(r.VPID, r.Page)
	if !ok {
		return 0, false
	}
	// numbers are dense, so that the last one tells whether a page in between is missing
	last, ok := x.number(r.VPID, r.end()-1)
	return first, ok && last-first == r.Pages-1
}

// from is the run of pages that begins with a number, up to the end of the index's own.
func (x *index) from(number uint32) Run {
	i := sort.Search(len(x.runs), func(i int) bool { return x.runs[i].first+x.runs[i].Pages > number })
	r := x.runs[i]
	skip := number - r.first
	return Run{r.VPID, r.Page + uint64(skip), r.Pages - skip}
}

// bitmap has one bit a page, by its number.
type bitmap []uint64

func newBitmap(n uint32) bitmap { return make(bitmap, (uint64(n)+63)/64) }

func (b bitmap) has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }

// set returns whether the bit was not set before.
func (b bitmap) set(i uint32) bool {
	was := b.has(i)
	b[i/64] |= 1 << (i % 64)
	return !was
}

// clear finds the first bit in [from, to) that is not set.
func (b bitmap) clear(from, to uint32) (uint32, bool) {
	for i := from; i < to; {
		if rest := ^b[i/64] >> (i % 64); rest != 0 {
			i += uint32(bits.TrailingZeros64(rest))
			return i, i < to
		}
		i = (i/64 + 1) * 64
	}
	return 0, false
}
