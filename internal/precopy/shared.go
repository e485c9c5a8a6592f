package precopy

import (
	"fmt"

	"migrate/internal/pages"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// Shared is a piece of shared memory that has to be at the destination.
type Shared struct {
	Object *shmem.Object
	Ranges []track.Range // in bytes from its beginning, ascending
	All    bool          // what was copied before counts for nothing
}

// need lists what is to be sent of it.
func (s Shared) need(t *pages.Table) []track.Range {
	if s.All {
		return s.Ranges
	}
	var need []track.Range
	for _, r := range s.Ranges {
		t.Missing(shmem.Space(s.Object.ID), r.Start/track.PageSize, (r.End-r.Start)/track.PageSize, func(page, n uint64) {
			need = append(need, track.Range{Start: page * track.PageSize, End: (page + n) * track.PageSize})
		})
	}
	return need
}

// beyond is above all that a file can hold, in bytes.
const beyond = 1 << 63

// sharedJobs has jobs for all pages of shared memory that are there, whether they have been written or not: the encoders compare them with
// what the destination has. What is there no more, they make it forget.
func (c *Copier) sharedJobs() (jobs []job, looked int64, err error) {
	if c.o.Shared == nil {
		return nil, 0, nil
	}
	objects, err := c.o.Shared()
	if err != nil {
		return nil, 0, fmt.Errorf("look for shared memory: %w", err)
	}
	gone := c.shared
	c.shared = map[int32]bool{}
	for _, o := range objects {
		space := shmem.Space(o.ID)
		data, _, err := o.Data()
		if err != nil {
			return nil, 0, fmt.Errorf("look for shared memory: %w", err)
		}
		looked += int64(track.Bytes(data) / track.PageSize)
		jobs = cut(jobs, job{object: o, space: space}, data)
		if gone[space] {
			jobs = append(jobs, job{space: space, void: between(data)})
		}
		delete(gone, space)
		c.shared[space] = true
	}
	for space := range gone {
		jobs = append(jobs, job{space: space, void: []track.Range{{End: beyond}}})
	}
	return jobs, looked, nil
}

// between lists what is not among the ranges, which ascend.
func between(ranges []track.Range) []track.Range {
	var holes []track.Range
	at := uint64(0)
	for _, r := range ranges {
		if at < r.Start {
			holes = append(holes, track.Range{Start: at, End: r.Start})
		}
		at = r.End
	}
	return append(holes, track.Range{Start: at, End: beyond})
}

// copyShared is copy for shared memory.
func (w *worker) copyShared(j job) error {
	for _, r := range j.void {
		if err := w.drop(j.space, r); err != nil {
			return err
		}
	}
	before := w.e.Unchanged()
	for _, r := range j.ranges {
		p := w.buf[:r.End-r.Start]
		n, err := j.object.ReadPages(p, r.Start)
		if err != nil {
			return err
		}
		if n < len(p) && w.strict {
			return fmt.Errorf("shared memory %d ends at %#x while it stands still", j.object.ID, r.Start+uint64(n))
		}
		if err := w.e.Pages(j.space, r.Start/track.PageSize, p[:n]); err != nil {
			return fmt.Errorf("send shared memory %d: %w", j.object.ID, err)
		}
		if r.Start += uint64(n); r.Start == r.End {
			continue
		}
		if err := w.drop(j.space, r); err != nil {
			return err
		}
	}
	w.done.same.Add(int64(w.e.Unchanged() - before))
	return nil
}

func (w *worker) drop(space int32, r track.Range) error {
	if err := w.e.Drop(space, r.Start/track.PageSize, (r.End-r.Start)/track.PageSize); err != nil {
		return fmt.Errorf("forget shared memory: %w", err)
	}
	return nil
}
