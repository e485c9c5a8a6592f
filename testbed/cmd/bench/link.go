package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"migrate/internal/report"
	"migrate/testbed"
)

// linkRates are those at which the use of the link is measured.
var linkRates = []string{"1gbit", "5gbit", "10gbit"}

const (
	linkMiB = 1024
	// iperf3 sends as many streams as `migrate send` does, for about as long as the first round takes.
	iperfStreams, iperfSeconds = "4", "2"
)

// A linkRow is how fast the first round of memory was, and how fast iperf3 right before it, run by run. The memory does
// not compress and nobody writes it.
type linkRow struct {
	LinkMbit  uint64    `json:"link_mbit"`
	MemoryMiB int       `json:"memory_mib"`
	RoundMbit []float64 `json:"round_mbit"`
	IperfMbit []float64 `json:"iperf3_mbit"`
}

// ratio is the median of what the round reached of iperf3's rate, in pairs.
func (w *linkRow) ratio() float64 { return median(ratios(w.RoundMbit, w.IperfMbit)) }

// ratios of two lists of the same length.
func ratios(a, b []float64) []float64 {
	var list []float64
	for i := range a {
		list = append(list, a[i]/b[i])
	}
	return list
}

func (l *lab) measureLink(ctx context.Context, progress io.Writer, res *results) error {
	m, err := l.mover()
	if err != nil {
		return err
	}
	server, err := startBackground(ctx, l.b, "iperf3", "-s")
	if err != nil {
		return err
	}
	defer server.end()
	defer func() { _ = l.setRate(l.link) }()
	for _, rate := range linkRates {
		if err := l.linkRate(ctx, m, rate, progress, res); err != nil {
			return err
		}
	}
	return nil
}

// linkRate does all runs at one rate.
func (l *lab) linkRate(ctx context.Context, m *mover, rate string, progress io.Writer, res *results) error {
	if err := l.setRate(rate); err != nil {
		return err
	}
	mbit, err := parseRate(rate)
	if err != nil {
		return err
	}
	w := &linkRow{LinkMbit: mbit, MemoryMiB: linkMiB}
	res.Link = append(res.Link, w)
	for i := range l.runs {
		ours, theirs, err := l.linkPair(ctx, m, fmt.Sprintf("link-%d-r%d", mbit, i+1))
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			res.fail(progress, err, "r%-3d link %s", i+1, rate)
		default:
			w.RoundMbit, w.IperfMbit = append(w.RoundMbit, ours), append(w.IperfMbit, theirs)
			fmt.Fprintf(progress, "r%-3d link %s  first round %.0f Mbit/s, iperf3 %.0f Mbit/s\n", i+1, rate, ours, theirs)
		}
	}
	return nil
}

// linkPair is one move with iperf3 before it; both in Mbit/s.
func (l *lab) linkPair(ctx context.Context, m *mover, id string) (ours, theirs float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	s := l.subject(id, linkMiB)
	s.noise = true
	defer l.wipe(context.WithoutCancel(ctx), s)
	if err := l.start(ctx, s); err != nil {
		return 0, 0, err
	}
	if theirs, err = l.iperf(ctx); err != nil {
		return 0, 0, err
	}
	rep, err := m.send(ctx, s.id)
	if err != nil {
		return 0, 0, err
	}
	if err := s.verify(ctx, l.b, rep.Pid); err != nil {
		return 0, 0, err
	}
	ours, err = firstRoundMbit(rep)
	return ours, theirs, err
}

func firstRoundMbit(rep *report.Report) (float64, error) {
	if len(rep.Rounds) == 0 || rep.Rounds[0].Frozen || rep.Rounds[0].MS <= 0 {
		return 0, errors.New("the report tells of no round before the freeze")
	}
	first := rep.Rounds[0]
	const bitsPerByte, msPerSecond, mega = 8, 1e3, 1e6
	return float64(first.Wire) * bitsPerByte / mega / (first.MS / msPerSecond), nil
}

// iperf returns what arrives at b, in Mbit/s.
func (l *lab) iperf(ctx context.Context) (float64, error) {
	var out string
	// The server may not listen yet.
	err := eventually(ctx, "iperf3 answers", func() (ok bool) {
		var err error
		out, err = run(ctx, l.a, "iperf3", "-c", "b", "-J", "-P", iperfStreams, "-t", iperfSeconds)
		return err == nil
	})
	if err != nil {
		return 0, err
	}
	return parseIperf(out)
}

func parseIperf(text string) (float64, error) {
	var said struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(text), &said); err != nil || said.End.Received.BitsPerSecond <= 0 {
		return 0, fmt.Errorf("iperf3 tells no rate (%w)", err)
	}
	return said.End.Received.BitsPerSecond / 1e6, nil
}

func (l *lab) setRate(rate string) error {
	for _, h := range []*testbed.Host{l.a, l.b} {
		if err := h.SetRate(rate); err != nil {
			return err
		}
	}
	return nil
}

// mover is our own program, which these measures need.
func (l *lab) mover() (*mover, error) {
	for _, t := range l.used {
		if m, ok := t.(*mover); ok {
			return m, nil
		}
	}
	return nil, errors.New("this needs tool " + toolMigrate)
}
