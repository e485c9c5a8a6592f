package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"migrate/internal/report"
)

const (
	postLink = "100mbit"
	postMiB  = 1024
	// A move takes a minute or two on such a link.
	postRuns = 3
	// The link is cut while memory comes, for so long.
	postCut      = 5 * time.Second
	postCutAfter = 5 * time.Second
)

// postWays are what is compared, in this order.
var postWays = []struct {
	mode string
	cut  bool
}{{"precopy", false}, {"postcopy", false}, {"hybrid", false}, {"postcopy", true}}

// A postRow is a way to move much memory over a slow link, run by run. Times are milliseconds.
type postRow struct {
	Mode       string    `json:"mode"`
	Cut        bool      `json:"link_cut"` // for 5 s while memory came
	MemoryMiB  int       `json:"memory_mib"`
	LinkMbit   uint64    `json:"link_mbit"`
	DirtyPages int       `json:"dirty_pages_per_sec"`
	DowntimeMS []float64 `json:"downtime_ms"`
	TotalMS    []float64 `json:"total_ms"`
	// DegradedMS is from the resume until no page was missing any more: pages that were touched meanwhile had to be waited for.
	DegradedMS []float64 `json:"degraded_ms"`
	Asked      []int64   `json:"asked_pages"` // waited for over the link
	MedianMS   []float64 `json:"wait_median_ms"`
	P99MS      []float64 `json:"wait_p99_ms"`
	Reconnects []int     `json:"reconnects"`
	WireBytes  []int64   `json:"wire_bytes"`
}

func (w *postRow) name() string {
	if w.Cut {
		return w.Mode + ", link cut"
	}
	return w.Mode
}

func (w *postRow) add(rep *report.Report) error {
	switch {
	case rep.Fill == nil:
		return errors.New("the report does not tell when all memory was in place")
	case rep.Fetch == nil && w.Mode != "precopy":
		return errors.New("the report does not tell how memory came")
	}
	var f report.Fetch
	if rep.Fetch != nil {
		f = *rep.Fetch
	}
	w.DowntimeMS, w.TotalMS = append(w.DowntimeMS, rep.DowntimeMS), append(w.TotalMS, rep.TotalMS)
	w.DegradedMS = append(w.DegradedMS, max(rep.Fill.MS, f.DegradedMS))
	w.Asked, w.Reconnects = append(w.Asked, f.Asked), append(w.Reconnects, f.Reconnects)
	w.MedianMS, w.P99MS = append(w.MedianMS, f.MedianMS), append(w.P99MS, f.P99MS)
	w.WireBytes = append(w.WireBytes, rep.WireBytes)
	return nil
}

// measurePost moves a container over a slow link in the modes that differ there.
func (l *lab) measurePost(ctx context.Context, progress io.Writer, res *results) error {
	m, err := l.mover()
	if err != nil {
		return err
	}
	defer func() { _ = l.setRate(l.link) }()
	if err := l.setRate(postLink); err != nil {
		return err
	}
	mbit, err := parseRate(postLink)
	if err != nil {
		return err
	}
	for _, way := range postWays {
		res.Post = append(res.Post, &postRow{Mode: way.mode, Cut: way.cut, MemoryMiB: postMiB, LinkMbit: mbit, DirtyPages: dirtyPages(postMiB, l.dirty)})
	}
	for i := range min(l.runs, postRuns) {
		for n, w := range res.Post {
			rep, err := l.postMove(ctx, m, fmt.Sprintf("post-%d-r%d", n, i+1), w)
			if err == nil {
				err = w.add(rep)
			}
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				res.fail(progress, err, "r%-3d post  %s", i+1, w.name())
			default:
				k := len(w.TotalMS) - 1
				fmt.Fprintf(progress, "r%-3d post  %-18s downtime %.1f ms, total %.0f ms, degraded %.0f ms\n", i+1, w.name(), w.DowntimeMS[k], w.TotalMS[k], w.DegradedMS[k])
			}
		}
	}
	return nil
}

// postMove is one move, after which the program has checked its memory.
func (l *lab) postMove(ctx context.Context, m *mover, id string, w *postRow) (*report.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	s := l.subject(id, postMiB)
	s.dirty = w.DirtyPages
	defer l.wipe(context.WithoutCancel(ctx), s)
	if err := l.start(ctx, s); err != nil {
		return nil, err
	}
	cut := make(chan error, 1)
	cut <- nil
	if w.Cut {
		<-cut
		go func() { cut <- l.cutWhileFetching(ctx, s) }()
	}
	rep, err := m.send(ctx, s.id, "--mode", w.Mode)
	if err != nil {
		cancel()
	}
	if cerr := <-cut; err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return rep, s.verify(ctx, l.b, rep.Pid)
}

// cutWhileFetching cuts the destination off for a while some time after the container has begun to run there.
func (l *lab) cutWhileFetching(ctx context.Context, s subject) error {
	err := eventually(ctx, s.id+" runs at the destination", func() bool { return len(readTicks(l.b, s)) > 0 })
	if err == nil {
		err = sleep(ctx, postCutAfter)
	}
	if err == nil {
		err = l.b.Cut()
	}
	if err != nil {
		return err
	}
	err = sleep(ctx, postCut)
	return errors.Join(err, l.b.Heal())
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *results) printPost(out io.Writer) {
	if len(r.Post) == 0 {
		return
	}
	fmt.Fprintf(out, "\n%d MiB over %d Mbit/s, medians:\n", r.Post[0].MemoryMiB, r.Post[0].LinkMbit)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "mode\tn\tdowntime ms\ttotal ms\tdegraded ms\twaited for\twait ms\t(99 %)\treconnects\twire MiB\t")
	for _, w := range r.Post {
		var reconnects int
		for _, n := range w.Reconnects {
			reconnects += n
		}
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.0f\t%.0f\t%.0f\t%.1f\t%.1f\t%d\t%.1f\t\n", w.name(), len(w.TotalMS), median(w.DowntimeMS), median(w.TotalMS),
			median(w.DegradedMS), median(w.Asked), median(w.MedianMS), median(w.P99MS), reconnects, median(w.WireBytes)/(1<<20))
	}
	_ = t.Flush() // to the terminal
}
