package precopy

import (
	"context"
	"fmt"
	"time"

	"migrate/internal/pages"
	"migrate/internal/report"
	"migrate/internal/track"
)

// Leave is for memory that is to stay where it is: in place of sending what the destination lacks, as Rest does, it returns that,
// and has the destination forget what it holds of it from before. The processes are held. It is the last round.
func (c *Copier) Leave(ctx context.Context, spaces []Space) ([]Space, report.Round, error) {
	start := time.Now()
	before, wire := c.o.Table.Stats(), c.wire
	left, err := c.lack(ctx, spaces)
	if err != nil {
		return nil, report.Round{}, err
	}
	var stale []Space
	for _, s := range left {
		if old := held(c.o.Table, int32(s.VPid), s.Ranges); len(old) > 0 {
			stale = append(stale, Space{s.Pid, s.VPid, old})
		}
	}
	if err := c.forget(ctx, stale); err != nil {
		return nil, report.Round{}, err
	}
	rep := c.describe(Round{Took: time.Since(start)}, before, wire)
	rep.Frozen, rep.Decision = true, "left"
	for _, s := range left {
		rep.RestPages += int64(track.Bytes(s.Ranges) / track.PageSize)
	}
	return left, rep, nil
}

// held returns the parts of ranges that the destination holds, in whatever state.
func held(t *pages.Table, space int32, ranges []track.Range) []track.Range {
	var list []track.Range
	for _, r := range ranges {
		at := r.Start
		t.Missing(space, r.Start/track.PageSize, (r.End-r.Start)/track.PageSize, func(page, n uint64) {
			if start := page * track.PageSize; at < start {
				list = append(list, track.Range{Start: at, End: start})
			}
			at = (page + n) * track.PageSize
		})
		if at < r.End {
			list = append(list, track.Range{Start: at, End: r.End})
		}
	}
	return list
}

// forget has the destination forget pages. Where there are none it costs nothing.
func (c *Copier) forget(ctx context.Context, spaces []Space) error {
	if len(spaces) == 0 {
		return nil
	}
	return c.parts(ctx, 1, func(_ context.Context, _ int, e *pages.Encoder) error {
		for _, s := range spaces {
			for _, r := range s.Ranges {
				if err := e.Drop(int32(s.VPid), r.Start/track.PageSize, (r.End-r.Start)/track.PageSize); err != nil {
					return fmt.Errorf("have the destination forget memory: %w", err)
				}
			}
		}
		return nil
	})
}
