package track

import (
	"context"
	"log/slog"
)

func newHashMethods(*slog.Logger) (methods, error) {
	return &hashMethods{newHasher(), newLister()}, nil
}

// hashMethods tracks by content.
type hashMethods struct {
	hasher hasher
	lister lister
}

func (h *hashMethods) adopt(_ context.Context, p *process, _ space) (method, error) {
	return &hashMethod{p: p, lister: h.lister, sums: newSums(h.hasher)}, nil
}

// hashMethod tracks one process by content. With quiet, anonymous pages that the kernel knows to be unwritten are not looked at;
// marks of hugetlb pages say nothing.
type hashMethod struct {
	p      *process
	lister lister
	sums   *sums
	quiet  bool
}

func (h *hashMethod) scan(_ context.Context, sp space) (pages, void []Range, err error) {
	defer h.sums.turn()
	pages, err = h.changed(sp.private)
	return pages, nil, err
}

// changed returns the pages to be copied. Their sums are dropped: should the caller not get at one of them, it has no copy any
// more, even if the page looks as it did before when it can be read again.
func (h *hashMethod) changed(vmas []vma) ([]Range, error) {
	v, fresh, err := h.look(vmas)
	for _, r := range v.changed {
		h.sums.drop(r)
	}
	return normal(append(fresh, v.changed...)), err
}

func (h *hashMethod) final(sp space) ([]Range, error) {
	v, _, err := h.look(sp.private)
	return v.same, err
}

// look compares the pages of mappings with their copies; fresh are those of which there is none.
//
// The memory that is listed is the one that was there as the process was adopted, the one that is read is the one that it has
// now. Should it have changed in between, the comparison is worthless, but then the next scan resets the process.
func (h *hashMethod) look(vmas []vma) (v verdict, fresh []Range, err error) {
	var quiet, check []Range
	for _, m := range vmas {
		err := h.lister.list(h.p.pagemap, m.Range, func(f found) {
			known := &check
			if h.quiet && m.anon && f.quiet {
				known = &quiet
			}
			h.sums.split(f.Range,
				func(r Range) { *known = add(*known, r) },
				func(r Range) { fresh = add(fresh, r) })
		})
		if err != nil {
			return v, nil, err
		}
	}
	if v, err = h.sums.compare(Reader{h.p.pid}, check); err != nil {
		return v, nil, err
	}
	v.same = normal(append(v.same, quiet...))
	return v, fresh, nil
}

func (h *hashMethod) copied(ranges []Range, data []byte) {
	for _, r := range ranges {
		h.sums.put(r.Start, data[:r.Len()])
		data = data[r.Len():]
	}
}

func (h *hashMethod) close() {}
