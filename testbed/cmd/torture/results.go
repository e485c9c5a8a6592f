package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"migrate/internal/report"
)

// resultsVersion changes when a field of the file changes its meaning or goes.
const resultsVersion = 1

// results is the file.
type results struct {
	Version  int         `json:"version"`
	When     time.Time   `json:"when"`
	Seed     uint64      `json:"seed"`
	MiB      int         `json:"mib"`
	Link     string      `json:"link"`
	OneIn    int         `json:"one_fault_in"` // moves; 0: none
	SendArgs []string    `json:"send_flags,omitempty"`
	Complete bool        `json:"complete"` // all moves that were asked for were made
	Seconds  float64     `json:"seconds"`
	Rows     []*row      `json:"cases"`
	Mix      []mixRow    `json:"mix"` // by tracker and way
	Faults   []*faultRow `json:"faults"`
	Totals   counts      `json:"totals"`
	Failures int         `json:"failures"`
	Notes    []string    `json:"notes,omitempty"` // what was asked for and not done
}

// counts are of one combo, or of all.
type counts struct {
	Migrations     int   `json:"migrations"`      // that succeeded
	Compared       int   `json:"compared"`        // of them, with --verify
	Unassisted     int   `json:"unassisted"`      // of them, without; what was wrong only the program could tell
	PagesCompared  int64 `json:"pages_compared"`  // by --verify
	PagesDiffering int64 `json:"pages_differing"` // of them
	SelfVerified   int   `json:"self_verified"`   // times that a program found all its memory right
	SelfPages      int64 `json:"self_verified_pages"`
	Faults         int64 `json:"faults"`     // pages that programs waited for after they were resumed
	FillPages      int64 `json:"fill_pages"` // pages that came after programs were resumed, these included
}

// A row is one combo.
type row struct {
	combo
	counts
	Unavailable string    `json:"unavailable,omitempty"` // why the machine can't run it
	Longest     stop      `json:"longest"`               // of its moves without --verify
	Failures    []failure `json:"failures"`

	results *results
}

// A stop is the downtime of one move, in milliseconds.
type stop struct {
	MS    float64       `json:"downtime_ms"`
	Parts []report.Part `json:"downtime_parts,omitempty"`
}

// A mixRow is what all cases together did with a tracker and a way.
type mixRow struct {
	Tracker string `json:"tracker"`
	Way     string `json:"way"`
	counts
	Failures int `json:"failures"`
}

// mixOf adds up the rows.
func mixOf(rows []*row) (mix []mixRow) {
	for _, r := range rows {
		i := slices.IndexFunc(mix, func(m mixRow) bool { return m.Tracker == r.Tracker && m.Way == r.Way })
		if i < 0 {
			i, mix = len(mix), append(mix, mixRow{Tracker: r.Tracker, Way: r.Way})
		}
		mix[i].counts.add(r.counts)
		mix[i].Failures += len(r.Failures)
	}
	slices.SortFunc(mix, func(a, b mixRow) int { return slices.Compare([]string{a.Tracker, a.Way}, []string{b.Tracker, b.Way}) })
	return mix
}

func (c *counts) add(d counts) {
	c.Migrations += d.Migrations
	c.Compared += d.Compared
	c.Unassisted += d.Unassisted
	c.PagesCompared += d.PagesCompared
	c.PagesDiffering += d.PagesDiffering
	c.SelfVerified += d.SelfVerified
	c.SelfPages += d.SelfPages
	c.Faults += d.Faults
	c.FillPages += d.FillPages
}

// A failure is anything unexpected.
type failure struct {
	Kind   string `json:"kind"`
	Text   string `json:"text"`
	Move   int    `json:"move"` // how many moves had succeeded before, or with it
	From   string `json:"from,omitempty"`
	Verify bool   `json:"verify"`
	Seed   uint64 `json:"seed,omitempty"` // of the program
	Send   string `json:"send,omitempty"` // what the source said
	Agent  string `json:"recv,omitempty"` // what the destination said
}

func newResults(o options) *results {
	r := &results{
		Version: resultsVersion, When: time.Now().UTC().Truncate(time.Second), Seed: o.seed, MiB: o.mib, Link: o.link, OneIn: o.faults, SendArgs: o.sendArgs, Faults: []*faultRow{},
	}
	for _, kind := range o.missing {
		r.note("tracker %s cannot be had on this machine", kind)
	}
	return r
}

// row finds a combo's or makes it.
func (r *results) row(c combo) *row {
	i := slices.IndexFunc(r.Rows, func(w *row) bool { return w.combo == c })
	if i >= 0 {
		return r.Rows[i]
	}
	w := &row{combo: c, Failures: []failure{}, results: r}
	r.Rows = append(r.Rows, w)
	return w
}

// both are the counts that a thing is counted in.
func (w *row) both() [2]*counts { return [2]*counts{&w.counts, &w.results.Totals} }

// moved notes a move that succeeded.
func (w *row) moved(m *move) {
	if !m.verify && m.rep.DowntimeMS > w.Longest.MS {
		w.Longest = stop{m.rep.DowntimeMS, m.rep.Downtime}
	}
	for _, c := range w.both() {
		c.Migrations++
		if m.verify {
			c.Compared++
			c.PagesCompared += m.rep.Verified
		} else {
			c.Unassisted++
		}
		if m.rep.Fill != nil {
			c.Faults += m.rep.Fill.Faults
			c.FillPages += m.rep.Fill.Pages
		}
	}
}

// differing notes what a comparison found that ended a move.
func (w *row) differing(differ, compared int64) {
	for _, c := range w.both() {
		c.PagesDiffering += differ
		c.PagesCompared += compared
	}
}

func (w *row) selfVerified(pages int64) {
	for _, c := range w.both() {
		c.SelfVerified++
		c.SelfPages += pages
	}
}

func (w *row) fail(f failure) {
	f.Move = w.results.Totals.Migrations
	w.Failures = append(w.Failures, f)
	w.results.Failures++
}

func (w *row) unavailable(err error) {
	if w.Unavailable = err.Error(); !slices.Contains(w.results.Notes, w.Case+": "+w.Unavailable) {
		w.results.note("%s: %s", w.Case, w.Unavailable)
	}
}

func (r *results) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// finish orders the rows for readers.
func (r *results) finish() {
	r.Seconds = time.Since(r.When).Round(time.Second).Seconds()
	slices.SortFunc(r.Rows, func(a, b *row) int {
		return slices.Compare([]string{a.Case, a.Tracker, a.Way}, []string{b.Case, b.Tracker, b.Way})
	})
	r.Mix = mixOf(r.Rows)
	slices.SortFunc(r.Faults, func(a, b *faultRow) int { return strings.Compare(a.Fault, b.Fault) })
}

func (r *results) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// verdict is an error if anything was not as it must be.
func (r *results) verdict() error {
	switch {
	case r.Totals.PagesDiffering > 0:
		return fmt.Errorf("%d of %d pages differ, %d failures", r.Totals.PagesDiffering, r.Totals.PagesCompared, r.Failures)
	case r.Failures > 0:
		return fmt.Errorf("%d failures, see above", r.Failures)
	case r.Totals.Migrations == 0:
		return errors.New("nothing was moved")
	}
	return nil
}
