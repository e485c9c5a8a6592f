package precopy

import (
	"context"
	"fmt"
	"time"

	"migrate/internal/pages"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// Space is the memory of one held process that has to be at the destination.
type Space struct {
	Pid    int // 0 when it is not among the container's processes any more, which is an error if it lacks any
	VPid   int
	Ranges []track.Range // ascending
}

// Rest sends what the destination lacks of the memory of processes that are held, and of what they share. It is the last round.
func (c *Copier) Rest(ctx context.Context, spaces []Space, shared []Shared) (report.Round, error) {
	start := time.Now()
	before, wire := c.o.Table.Stats(), c.wire
	var need []Space
	var err error
	if len(spaces) > 0 {
		if need, err = c.lack(ctx, spaces); err != nil {
			return report.Round{}, err
		}
	}
	var jobs []job
	for _, s := range need {
		jobs = cut(jobs, job{pid: s.Pid, space: int32(s.VPid)}, s.Ranges)
	}
	for _, s := range shared {
		jobs = cut(jobs, job{object: s.Object, space: shmem.Space(s.Object.ID)}, s.need(c.o.Table))
	}
	r := Round{}
	if r.Pages, err = c.send(ctx, jobs, nil, true); err != nil {
		return report.Round{}, err
	}
	r.Took = time.Since(start)
	rep := c.describe(r, before, wire)
	rep.Frozen = true
	return rep, nil
}

// lack looks once more, and returns of each space what the destination lacks.
func (c *Copier) lack(ctx context.Context, spaces []Space) ([]Space, error) {
	procs, err := c.o.Tracker.Final(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for written memory: %w", err)
	}
	clean := map[int][]track.Range{}
	for _, p := range procs {
		if !p.Reset {
			clean[p.VPid] = p.Pages
		}
	}
	need := make([]Space, len(spaces))
	for i, s := range spaces {
		need[i] = Space{s.Pid, s.VPid, lacking(c.o.Table, int32(s.VPid), s.Ranges, clean[s.VPid])}
		if s.Pid == 0 && len(need[i].Ranges) > 0 {
			return nil, fmt.Errorf("process %d of the container was dumped and is not among its processes", s.VPid)
		}
	}
	return need, nil
}

// lacking returns the parts of ranges that are not both clean and held by the destination.
func lacking(t *pages.Table, space int32, ranges, clean []track.Range) []track.Range {
	var need []track.Range
	add := func(start, end uint64) {
		if n := len(need); n > 0 && need[n-1].End == start {
			need[n-1].End = end
		} else if start < end {
			need = append(need, track.Range{Start: start, End: end})
		}
	}
	for _, r := range ranges {
		for len(clean) > 0 && clean[0].End <= r.Start {
			clean = clean[1:]
		}
		at := r.Start
		for _, cl := range clean {
			if cl.Start >= r.End {
				break
			}
			from, to := max(cl.Start, r.Start), min(cl.End, r.End)
			add(at, from)
			t.Missing(space, from/track.PageSize, (to-from)/track.PageSize, func(page, n uint64) {
				add(page*track.PageSize, (page+n)*track.PageSize)
			})
			at = to
		}
		add(at, r.End)
	}
	return need
}
