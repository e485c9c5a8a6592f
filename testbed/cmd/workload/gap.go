package main

import "time"

// A gapMeter finds the longest time without a sign of life.
type gapMeter struct {
	last    time.Time
	longest time.Duration
	at      time.Time // when the longest began
}

// mark notes a sign of life.
func (g *gapMeter) mark(now time.Time) {
	if !g.last.IsZero() {
		if gap := now.Sub(g.last); gap > g.longest {
			g.longest, g.at = gap, g.last
		}
	}
	g.last = now
}

// A gapReport is the longest gap in results.
type gapReport struct {
	LongestGapMS float64 `json:"longest_gap_ms"`
	GapBegan     string  `json:"gap_began,omitempty"` // UTC
}

func (g *gapMeter) report() gapReport {
	r := gapReport{LongestGapMS: float64(g.longest.Microseconds()) / 1000}
	if !g.at.IsZero() {
		r.GapBegan = g.at.UTC().Format("15:04:05.000")
	}
	return r
}
