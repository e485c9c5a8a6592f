package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A target is a bound for a number that follows from the results. It has one value for each size, or each link.
type target struct {
	what    string
	atLeast bool // otherwise at most
	bound   float64
	values  func(*results) []value
	needs   string // to be measured
}

// A value of a target, and what it is of.
type value struct {
	Of    string  `json:"of"`
	Value float64 `json:"value"`
}

// A verdict is what became of a target.
type verdict struct {
	What   string  `json:"target"`
	Met    *bool   `json:"met"` // null: not measured
	Values []value `json:"values"`

	needs string
}

// targets, those of all sizes first.
var targets = []target{
	{what: "ours ≤ 1.5 × floor", bound: 1.5, values: downtimes(toolMigrate, toolFloor), needs: "migrate and criu"},
	{what: "ours ≤ 0.35 × floor at 1 GiB", bound: 0.35, values: downtimes(toolMigrate, toolFloor, 1024), needs: "migrate and criu"},
	{what: "ours ≤ 0.12 × floor at 4 GiB", bound: 0.12, values: downtimes(toolMigrate, toolFloor, 4096), needs: "migrate and criu"},
	{what: "ours at 4 GiB ≤ 3 × ours at 64 MiB", bound: 3, values: growth, needs: "migrate at both sizes"},
	{what: "ctr ≥ 3 × ours", atLeast: true, bound: 3, values: downtimes(toolCtr, toolMigrate), needs: "ctr and migrate"},
	{what: "ctr ≥ 10 × ours at 1 GiB", atLeast: true, bound: 10, values: downtimes(toolCtr, toolMigrate, 1024), needs: "ctr and migrate"},
	{what: "podman ≥ 10 × ours at 1 GiB", atLeast: true, bound: 10, values: downtimes(toolPodman, toolMigrate, 1024), needs: "podman and migrate"},
	{what: "sent ≤ 1.10 × the least", bound: 1.10, values: wireRatios, needs: "migrate"},
	{what: "agent ≤ 128 MiB", bound: 128, values: agentMiB, needs: "migrate"},
	{what: "first round ≥ 0.9 × iperf3", atLeast: true, bound: 0.9, values: linkRatios, needs: "measure link"},
	{what: "load during copying ≥ 0.9 × before", atLeast: true, bound: 0.9, values: loadRatio, needs: "measure load"},
	{what: "gap ≤ stop + 20 ms", bound: gapBound, values: gapOvers(false), needs: "measure gap"},
	{what: "gap of new connections ≤ stop + 50 ms", bound: gapConnectBound, values: gapOvers(true), needs: "measure gap"},
	{what: "no client gets a wrong byte, a reset or an error", bound: 0, values: gapFaults, needs: "measure gap"},
	{what: "check ≤ 1.5 × ls -l", bound: checkBound, values: checkRatio, needs: "measure check"},
	{what: "postgres ≤ 0.8 × floor", bound: postgresBound, values: postgresRatio, needs: "measure postgres"},
	{what: "docker ≥ 3 × ours", atLeast: true, bound: dockerBound, values: dockerRatios, needs: "measure docker"},
}

// downtimes compares the medians of two tools at the given sizes, or at all.
func downtimes(tool, to string, sizes ...int) func(*results) []value {
	return func(r *results) []value {
		var list []value
		for _, mib := range r.sizes() {
			ratio, ok := r.ratio(tool, to, mib)
			if ok && (len(sizes) == 0 || slices.Contains(sizes, mib)) {
				list = append(list, value{sizeName(mib), ratio})
			}
		}
		return list
	}
}

func sizeName(mib int) string { return fmt.Sprintf("%d MiB", mib) }

func growth(r *results) []value {
	small, large := r.row(toolMigrate, 64), r.row(toolMigrate, 4096)
	if small == nil || large == nil {
		return nil
	}
	return []value{{sizeName(4096), median(large.DowntimeMS) / median(small.DowntimeMS)}}
}

// wireRatios are medians of what was sent in relation to what had to be, in pairs.
func wireRatios(r *results) []value {
	return ofMoves(r, func(w *row) float64 {
		var list []float64
		for i, least := range w.Inside.LeastWire {
			list = append(list, float64(w.WireBytes[i])/float64(max(least, 1)))
		}
		return median(list)
	})
}

// agentMiB are the highest that any run saw, on either host.
func agentMiB(r *results) []value {
	return ofMoves(r, func(w *row) float64 {
		return mebi(max(slices.Max(w.Inside.Source), slices.Max(w.Inside.Destination)))
	})
}

// ofMoves is a value for each size that our own program moved.
func ofMoves(r *results, of func(*row) float64) []value {
	var list []value
	for _, mib := range r.sizes() {
		if w := r.row(toolMigrate, mib); w != nil && w.Inside != nil {
			list = append(list, value{sizeName(mib), of(w)})
		}
	}
	return list
}

func linkRatios(r *results) []value {
	var list []value
	for _, w := range r.Link {
		if len(w.RoundMbit) > 0 {
			list = append(list, value{fmt.Sprintf("%d Mbit/s", w.LinkMbit), w.ratio()})
		}
	}
	return list
}

func loadRatio(r *results) []value {
	if r.Load == nil || len(r.Load.DuringPerSec) == 0 {
		return nil
	}
	return []value{{fmt.Sprintf("%d connections", r.Load.Clients), r.Load.ratio()}}
}

// judge holds the results to the targets.
func (r *results) judge() {
	r.Verdicts = nil
	for _, t := range targets {
		v := verdict{What: t.what, Values: t.values(r), needs: t.needs}
		if len(v.Values) > 0 {
			met := !slices.ContainsFunc(v.Values, func(v value) bool { return !t.holds(v.Value) })
			v.Met = &met
		}
		r.Verdicts = append(r.Verdicts, v)
	}
}

// holds is false for what is no number.
func (t target) holds(v float64) bool {
	if t.atLeast {
		return v >= t.bound
	}
	return v <= t.bound
}

// printTargets says which targets are met.
func (r *results) printTargets(out io.Writer) {
	fmt.Fprintln(out)
	for _, v := range r.Verdicts {
		word, parts := "not measured", []string{"needs " + v.needs}
		if v.Met != nil {
			word, parts = map[bool]string{true: "met", false: "missed"}[*v.Met], nil
		}
		for _, val := range v.Values {
			parts = append(parts, fmt.Sprintf("%s %.2f", val.Of, val.Value))
		}
		fmt.Fprintf(out, "target: %s: %s (%s)\n", v.What, word, strings.Join(parts, ", "))
	}
}
