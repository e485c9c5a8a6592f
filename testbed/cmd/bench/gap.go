package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
)

const (
	gapMiB = 64 // memory of the container
	// A client is left alone for so long after a move, since a connection may stall a second time.
	gapAfter = 1500 * time.Millisecond
)

// What a client may notice beside the stop, in milliseconds. New connections are refused a moment before it.
const (
	gapBound        = 20
	gapConnectBound = 50
)

// kindConnect is the client that makes new connections.
const kindConnect = "connect"

// gapKinds are all clients of `workload traffic`.
var gapKinds = []string{"request-reply", "pipelined", "download", "upload", kindConnect}

// A gapRow is what one client noticed of moves, move by move: one connection lives through all of them, or one follows the
// other. Times are milliseconds.
type gapRow struct {
	Kind string `json:"kind"`
	IP   int    `json:"ip"` // version
	// StopMS is what the report says, or how long the server printed nothing if that was less: the first includes the
	// way of the destination's word to the source, the second up to one tick of the server.
	StopMS     []float64 `json:"stop_ms"`
	DowntimeMS []float64 `json:"downtime_ms"` // the report's
	QuietMS    []float64 `json:"quiet_ms"`    // the server's
	GapMS      []float64 `json:"gap_ms"`      // the client's longest silence
	// SecondMS is the longest silence after that one within gapAfter; 0: none of note.
	SecondMS []float64 `json:"second_ms"`
	Kept     []int64   `json:"packets_kept"`
	Lost     []int64   `json:"packets_lost"`
	Wrong    int64     `json:"wrong_bytes"`
	Resets   int64     `json:"resets"`
	Errors   int64     `json:"errors"`
	Error    string    `json:"error,omitempty"`
}

// overs are how much longer each gap was than the stop.
func (w *gapRow) overs() []float64 {
	var list []float64
	for i := range w.GapMS {
		list = append(list, w.GapMS[i]-w.StopMS[i])
	}
	return list
}

func (w *gapRow) name() string { return fmt.Sprintf("%s IPv%d", w.Kind, w.IP) }

// hosts are those that are needed.
func (o options) hosts() []string {
	if slices.Contains(o.measures, measureGap) {
		return []string{"a", "b", "c"}
	}
	return []string{"a", "b"}
}

// measureGap has clients on a third host while their server moves to and fro.
func (l *lab) measureGap(ctx context.Context, progress io.Writer, res *results) error {
	there, err := l.mover()
	if err != nil {
		return err
	}
	back := &mover{lab: l, from: l.b, to: l.a}
	defer back.stop()
	if err := back.prepare(ctx); err != nil {
		return err
	}
	for _, kind := range l.gapKinds {
		for _, ip := range []int{4, 6} {
			w := &gapRow{Kind: kind, IP: ip}
			res.Gap = append(res.Gap, w)
			err := l.gapMoves(ctx, [2]*mover{there, back}, w, progress)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				res.fail(progress, err, "gap  %s", w.name())
			}
		}
	}
	return nil
}

// gapMoves are all moves of one client's server.
func (l *lab) gapMoves(ctx context.Context, movers [2]*mover, w *gapRow, progress io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	s := l.subject(fmt.Sprintf("gap-%s-%d", w.Kind, w.IP), gapMiB)
	s.dirty = dirtyPages(gapMiB, l.dirty)
	defer l.wipe(context.WithoutCancel(ctx), s)
	address, err := l.startServer(ctx, s, w.IP)
	if err != nil {
		return err
	}
	client, err := l.startClient(ctx, w.Kind, address)
	if err != nil {
		return err
	}
	for i := range warmUps + l.runs {
		began := time.Now()
		rep, silences, err := l.gapMove(ctx, movers[i%2], s.id, client)
		if err != nil {
			return errors.Join(err, client.finish(w))
		}
		if i >= warmUps {
			w.add(rep, quiet(append(readTicks(l.a, s), readTicks(l.b, s)...), began), silences)
			fmt.Fprintf(progress, "r%-3d gap   %-18s downtime %.1f ms, server's silence %.1f ms, client's %.1f ms, second %.1f ms\n", i, w.name(),
				rep.DowntimeMS, w.QuietMS[len(w.QuietMS)-1], w.GapMS[len(w.GapMS)-1], w.SecondMS[len(w.SecondMS)-1])
		}
	}
	return client.finish(w)
}

// startServer runs the container on host a and returns where its server listens.
func (l *lab) startServer(ctx context.Context, s subject, ip int) (string, error) {
	c, err := l.a.RunContainer(ctx, testbed.ContainerSpec{ID: s.id, Image: image, Args: s.args(), Network: testbed.NetworkCNI})
	if err != nil {
		return "", err
	}
	err = eventually(ctx, s.id+" is ready", func() bool { return lastTick(readTicks(l.a, s)) >= settledTick })
	if ip == 6 {
		return "[" + c.Addr6.String() + "]:7000", err
	}
	return c.Addr.String() + ":7000", err
}

// gapMove is one move under the eyes of a client, which is waited for until it has gone on, and what it noticed.
func (l *lab) gapMove(ctx context.Context, m *mover, id string, client *trafficClient) (*report.Report, []clientSilence, error) {
	began := time.Now()
	rep, err := m.send(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	select {
	case <-time.After(gapAfter):
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	before := client.last()
	err = eventually(ctx, "the client goes on", func() bool {
		now := client.last()
		return now.Errors > 0 || now.progress() > before.progress()
	})
	now := client.last()
	if err == nil && now.Errors > 0 {
		err = fmt.Errorf("the client failed: %s", now.Error)
	}
	return rep, now.silences(began), err
}

// quiet is the longest time between two lines of a program since a moment, whichever hosts' logs they are in.
func quiet(ticks []tick, since time.Time) float64 {
	slices.SortFunc(ticks, func(a, b tick) int { return cmp.Compare(a.n, b.n) })
	var longest time.Duration
	for i, t := range ticks {
		if i > 0 && t.at.After(since) {
			longest = max(longest, t.at.Sub(ticks[i-1].at))
		}
	}
	return millis(longest)
}

// add takes in a move: the stop, the client's longest silence, and the longest of those after it.
func (w *gapRow) add(rep *report.Report, quiet float64, silences []clientSilence) {
	var longest, second clientSilence
	for _, s := range silences {
		if s.MS > longest.MS {
			longest = s
		}
	}
	for _, s := range silences {
		if s.Began.Compare(longest.Ended) >= 0 && s.MS > second.MS {
			second = s
		}
	}
	w.DowntimeMS, w.QuietMS = append(w.DowntimeMS, rep.DowntimeMS), append(w.QuietMS, quiet)
	w.StopMS = append(w.StopMS, min(rep.DowntimeMS, quiet))
	w.GapMS, w.SecondMS = append(w.GapMS, longest.MS), append(w.SecondMS, second.MS)
	w.Kept, w.Lost = append(w.Kept, rep.Packets), append(w.Lost, rep.PacketsLost)
}

// gapOvers are medians of how much longer the gaps were than the stop, of clients that make new connections or of the
// others.
func gapOvers(connecting bool) func(*results) []value {
	return func(r *results) []value {
		var list []value
		for _, w := range r.Gap {
			if (w.Kind == kindConnect) == connecting && len(w.GapMS) > 0 {
				list = append(list, value{w.name(), median(w.overs())})
			}
		}
		return list
	}
}

// gapFaults are what must not happen to a client at all.
func gapFaults(r *results) []value {
	var list []value
	for _, w := range r.Gap {
		list = append(list, value{w.name(), float64(w.Wrong + w.Resets + w.Errors)})
	}
	return list
}

func (r *results) printGap(out io.Writer) {
	if len(r.Gap) == 0 {
		return
	}
	fmt.Fprintln(out, "\nwhat clients noticed of a stop, ms:")
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "client\tn\tstop\tgap\tgap − stop\tworst\tsecond silence, worst\tpackets kept\tlost\twrong bytes\tresets\terrors\t")
	for _, w := range r.Gap {
		if len(w.GapMS) == 0 {
			continue
		}
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.0f\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%d\t%d\t%d\t\n", w.name(), len(w.GapMS), median(w.StopMS), median(w.GapMS),
			median(w.overs()), slices.Max(w.overs()), slices.Max(w.SecondMS), median(w.Kept), median(w.Lost), w.Wrong, w.Resets, w.Errors)
	}
	_ = t.Flush() // to the terminal
}
