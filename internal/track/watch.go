package track

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"migrate/internal/uffd"
)

// A range of memory that is registered with a userfaultfd is a mapping of its own to the kernel. If it is only a part of what the
// program has mapped, the kernel refuses to move or resize the whole (mremap(2), EFAULT) although the program has done nothing
// wrong. So mappings are registered as a whole, as they are at that moment, and while the program cannot change them.
//
// What remains: two mappings that the program has made one after the other and beside each other are usually one to the
// kernel, and are two as long as only one of them is registered, which is until the next scan.

// begin watches mappings that are not watched yet, at least not as a whole. void are those that are watched from now on, and pages
// all their pages. rest are those that cannot be watched now; some of their pages may be protected without being listed, so the
// caller has to look at their content.
func (w *wpMethod) begin(ctx context.Context, sp space, open []Range) (pages, void []Range, rest []vma, err error) {
	watched, rest, err := w.register(ctx, sp, open)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, v := range watched {
		void = add(void, v.Range)
		w.hash.sums.drop(v.Range) // they are of copies that are void
		err := w.protectAll(v.Range, &pages)
		if errors.Is(err, unix.EPERM) {
			rest = append(rest, v) // it has changed again; the next scan will see
		} else if err != nil {
			return nil, nil, nil, fmt.Errorf("protect memory of process %d at %#x: %w", w.p.pid, v.Start, err)
		}
	}
	return pages, void, rest, nil
}

// protectAll appends all pages of a mapping and protects them.
func (w *wpMethod) protectAll(r Range, pages *[]Range) error {
	// The range may have been registered before: when a program moves a mapping beside another one, the kernel may merge the two
	// and take both out of the watch, marks left in place (mm/mremap.c, mremap_userfaultfd_prep). A page that was written
	// in between is writable with its mark on, would not be marked anew, and so never be seen again.
	if err := uffd.Unprotect(w.fd, r.Start, r.End); err != nil {
		return unix.EPERM
	}
	return w.query(r, wpAll, pages)
}

// register registers the mappings that lie in open, or across its ends, as a whole. rest is what of open is mapped and was not
// registered.
func (w *wpMethod) register(ctx context.Context, sp space, open []Range) (watched, rest []vma, err error) {
	try := func(now space) error {
		watched, rest = nil, nil
		for _, v := range now.private {
			parts := common(v.Range, open)
			switch {
			case len(parts) == 0:
			case v.anon && uffd.Register(w.fd, v.Start, v.End, uffd.ModeWP) == nil:
				watched = append(watched, v)
			default:
				for _, part := range parts {
					rest = append(rest, vma{part, v.anon})
				}
			}
		}
		return nil
	}
	if sp.still {
		err = try(sp)
		return watched, rest, err
	}
	if w.busy.rests() {
		return nil, anonymousAt(open), nil
	}
	err = holdMappings(w.p.pid, func() error {
		now, err := w.all.maps.read(w.p.pid)
		if err != nil {
			return err
		}
		return try(now)
	})
	w.busy.note(errors.Is(err, errBusy))
	if errors.Is(err, errBusy) {
		w.all.log.DebugContext(ctx, "new mappings are not watched in this round", "pid", w.p.pid, "error", err)
		return nil, anonymousAt(open), nil
	}
	return watched, rest, err
}

// backoff spares a process that cannot be held, because there are too many threads, say, or a machine is too busy: every try stops some
// of it for up to holdLimit.
type backoff struct {
	failures int // in a row
	left     int // scans until the next try
}

// maxBackoff bounds the scans between two tries, as a power of two.
const maxBackoff = 6

// rests tells whether this is no time for a try, and counts.
func (b *backoff) rests() bool {
	b.left--
	return b.left >= 0
}

func (b *backoff) note(failed bool) {
	if !failed {
		*b = backoff{}
		return
	}
	b.failures = min(b.failures+1, maxBackoff)
	b.left = 1<<b.failures - 1
}

// common returns what of r is in list, which is ascending.
func common(r Range, list []Range) (parts []Range) {
	i, _ := slices.BinarySearchFunc(list, r.Start, func(o Range, at uint64) int { return cmp.Compare(o.End, at+1) })
	for _, o := range list[i:] {
		if o.Start >= r.End {
			break
		}
		parts = append(parts, Range{max(r.Start, o.Start), min(r.End, o.End)})
	}
	return parts
}

func anonymousAt(list []Range) (vmas []vma) {
	for _, r := range list {
		vmas = append(vmas, vma{r, true})
	}
	return vmas
}
