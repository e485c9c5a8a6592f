package precopy

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"migrate/internal/pace"
	"migrate/internal/pages"
	"migrate/internal/track"
)

// worker reads memory and encodes it, one job after another.
type worker struct {
	e       *pages.Encoder
	tracker track.Tracker
	buf     []byte
	pace    *pace.Pacer
	done    *progress
	strict  bool // every page has to be there
}

// progress adds up what the workers of a round have read.
type progress struct {
	total int64
	n     atomic.Int64
	same  atomic.Int64 // pages of shared memory that had not changed
	tell  func(done, total int64)
}

func (w *worker) run(ctx context.Context, queue <-chan job) error {
	for j := range queue {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		leave, err := w.pace.Enter(ctx)
		if err != nil {
			return err
		}
		err = w.copy(j)
		leave(j.bytes())
		if err != nil {
			return err
		}
		w.done.tell(w.done.n.Add(j.bytes()), w.done.total)
	}
	return nil
}

// copy sends the pages of a job. Pages that are gone by now are forgotten: the next scan tells of what came in their place.
func (w *worker) copy(j job) error {
	if j.object != nil || len(j.void) > 0 {
		return w.copyShared(j)
	}
	gone, err := track.Reader{Pid: j.pid}.Read(j.ranges, w.buf)
	if errors.Is(err, track.ErrGone) && !w.strict {
		gone, err = j.ranges, nil
	}
	if err != nil {
		return fmt.Errorf("read memory of process %d: %w", j.pid, err)
	}
	if len(gone) > 0 && w.strict {
		return fmt.Errorf("read memory of process %d: page %#x cannot be read", j.pid, gone[0].Start)
	}
	off := uint64(0)
	for _, r := range j.ranges {
		for r.Start < r.End {
			bad, next := split(r, &gone)
			p := w.buf[off : off+next-r.Start]
			off += uint64(len(p))
			if bad {
				err = w.e.Drop(j.space, r.Start/track.PageSize, uint64(len(p))/track.PageSize)
			} else {
				w.tracker.Copied(j.pid, []track.Range{{Start: r.Start, End: next}}, p)
				err = w.e.Pages(j.space, r.Start/track.PageSize, p)
			}
			if err != nil {
				return fmt.Errorf("send memory of process %d: %w", j.pid, err)
			}
			r.Start = next
		}
	}
	return nil
}

// split returns where the first part of r ends that is either all gone or all there, and which. It takes what it passes
// from gone, which ascends with the ranges.
func split(r track.Range, gone *[]track.Range) (bad bool, end uint64) {
	if len(*gone) == 0 {
		return false, r.End
	}
	g := (*gone)[0]
	switch {
	case g.Start >= r.End || g.End <= r.Start:
		return false, r.End
	case g.Start > r.Start:
		return false, g.Start
	}
	if g.End <= r.End {
		*gone = (*gone)[1:]
	}
	return true, min(g.End, r.End)
}
