package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"migrate/internal/report"
)

// What becomes of a container.
const (
	stayed = "stayed" // it runs at the source
	moved  = "moved"  // it runs at the destination
	lost   = "lost"   // it runs nowhere, and there is a record of that
)

// A fault is something that befalls a move.
type fault struct {
	name   string
	after  string        // phase whose end is waited for
	within time.Duration // of that, at random
	slow   bool          // the phase after it has to be slowed down to last so long
	filled bool          // it is about memory that comes late
	weight int           // how often it is picked, beside the others
	expect []string      // outcomes that are right, whenever exactly it struck
	strike func(context.Context, *faulted) error
}

// Of a source that dies while it tells the destination to go on, or of which nobody knows whether it has, either side may end up
// with the container.
var faults = []fault{
	{name: "source killed in precopy", after: report.Sync, within: 700 * time.Millisecond, slow: true, weight: 3, expect: []string{stayed}, strike: killSource},
	{name: "source killed in hold", after: report.Precopy, within: 400 * time.Millisecond, weight: 3, expect: []string{stayed, moved}, strike: killSource},
	{name: "destination killed in precopy", after: report.Sync, within: 700 * time.Millisecond, slow: true, weight: 3, expect: []string{stayed}, strike: killDestination},
	{name: "destination killed in hold", after: report.Precopy, within: 400 * time.Millisecond, weight: 3, expect: []string{stayed, moved}, strike: killDestination},
	{name: "destination killed in fill", after: report.Ship, filled: true, weight: 2, expect: []string{moved}, strike: killDestinationInFill},
	{name: "pager killed in fill", after: report.Ship, filled: true, weight: 2, expect: []string{lost}, strike: killPager},
	{name: "link cut in precopy", after: report.Sync, within: 700 * time.Millisecond, slow: true, weight: 1, expect: []string{stayed}, strike: cutLink},
	{name: "link cut in hold", after: report.Precopy, within: 400 * time.Millisecond, weight: 1, expect: []string{stayed, moved}, strike: cutLink},
}

// pickFault picks one that the move can meet.
func pickFault(r *rand.Rand, lateMemory bool) fault {
	var bag []int
	for i, f := range faults {
		if !f.filled || lateMemory {
			bag = append(bag, slices.Repeat([]int{i}, f.weight)...)
		}
	}
	return faults[bag[r.IntN(len(bag))]]
}

// slowRate makes the copying of a small container last about a second.
const slowRate = "16MiB"

// A faultRow is one fault in the results.
type faultRow struct {
	Fault    string         `json:"fault"`
	Expected []string       `json:"expected"`
	Struck   int            `json:"struck"`             // times
	Missed   int            `json:"missed"`             // times that the move was over before
	Outcomes map[string]int `json:"outcomes"`           // of those that struck
	ByHand   int            `json:"by_hand"`            // of them, settled as the handbook says: the source's frozen copy deleted, or thawed
	Verified int            `json:"self_verified"`      // times that the program found all its memory right afterwards
	Followed int            `json:"followed_by_a_move"` // times that the same container was moved afterwards
}

func (r *results) faultRow(f fault) *faultRow {
	i := slices.IndexFunc(r.Faults, func(w *faultRow) bool { return w.Fault == f.name })
	if i >= 0 {
		return r.Faults[i]
	}
	w := &faultRow{Fault: f.name, Expected: f.expect, Outcomes: map[string]int{}}
	r.Faults = append(r.Faults, w)
	return w
}

// outcomes are those that came, with how often.
func (f *faultRow) outcomes() string {
	var parts []string
	for _, o := range []string{stayed, moved, lost} {
		if n := f.Outcomes[o]; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %d", o, n))
		}
	}
	return strings.Join(parts, ", ")
}
