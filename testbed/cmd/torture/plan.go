package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// A combo is what a container is moved with, all its moves alike but for --verify.
type combo struct {
	Case    string `json:"case"`
	Tracker string `json:"tracker"`
	Way     string `json:"way"`
}

func (c combo) String() string { return fmt.Sprintf("%-14s %-4s %-5s", c.Case, c.Tracker, c.Way) }

// combos are all that there are, in a random order.
func (o options) combos(order *rand.Rand) []combo {
	var all []combo
	for _, name := range o.cases {
		for _, tracker := range o.trackers {
			for _, way := range o.ways {
				all = append(all, combo{name, tracker, way})
			}
		}
	}
	order.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// runAll goes through all combos, again and again, until so many moves are made. A combo that made none in several
// rounds is left out from then on.
func (l *lab) runAll(ctx context.Context, res *results, progress io.Writer) error {
	order := rand.New(rand.NewPCG(l.seed, 0))
	todo, fruitless := l.combos(order), map[combo]int{}
	for round := 0; res.Totals.Migrations < l.migrations && len(todo) > 0; round++ {
		var again []combo
		for i, c := range todo {
			hops := min(l.hops, l.migrations-res.Totals.Migrations)
			if hops == 0 {
				break
			}
			r := res.row(c)
			before := r.Migrations
			l.ride(ctx, r, hops, (round+i)%2 == 0, progress)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if fruitless[c]++; r.Migrations > before {
				fruitless[c] = 0
			}
			if fruitless[c] < maxFruitless && r.Unavailable == "" {
				again = append(again, c)
			}
		}
		todo = again
	}
	if res.Complete = res.Totals.Migrations >= l.migrations; !res.Complete {
		res.note("only %d of %d moves were made: nothing is left that can be moved", res.Totals.Migrations, l.migrations)
	}
	return nil
}

const maxFruitless = 3

// ride starts a container and moves it to and fro. A container that failed in any way is not moved again.
func (l *lab) ride(ctx context.Context, r *row, hops int, verify bool, progress io.Writer) {
	s, err := l.start(ctx, r.Case)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, errUnavailable):
		r.unavailable(err)
		fmt.Fprintf(progress, "%s  CANNOT RUN: %v\n", r.combo, err)
		return
	case err != nil:
		r.fail(failure{Kind: kindStart, Text: err.Error()})
		fmt.Fprintf(progress, "%s  FAILED: %v\n", r.combo, err)
		return
	}
	defer s.remove(ctx)
	d := ride{subject: s, row: r, progress: progress, verify: verify}
	for d.moves < hops && d.hop(ctx) {
	}
}

// A ride is one container on its way to and fro.
type ride struct {
	subject  *subject
	row      *row
	progress io.Writer
	verify   bool // the next move is made with --verify, where that alternates
	moves    int
	befell   *faultRow // the move before; the next one is spared
}

// hop makes one move, and tells whether there may be another one.
func (d *ride) hop(ctx context.Context) bool {
	l := d.subject.lab
	m := &move{subject: d.subject, combo: d.row.combo, verify: l.verify == verifyAll || l.verify == verifyHalf && d.verify}
	if d.befell == nil && l.faults > 0 && l.dice.IntN(l.faults) == 0 {
		return d.suffer(ctx, m)
	}
	bad := m.make(ctx, d.row)
	if ctx.Err() != nil {
		return false
	}
	fmt.Fprintln(d.progress, m.summary(d.row.results.Totals.Migrations))
	if bad != nil {
		return d.fail(bad)
	}
	if d.moves++; d.befell != nil {
		d.befell.Followed++
	}
	d.befell, d.verify = nil, !d.verify
	return true
}

// suffer makes a move that a fault befalls.
func (d *ride) suffer(ctx context.Context, m *move) bool {
	l := d.subject.lab
	f := &faulted{move: m, fault: pickFault(l.dice, m.combo.Way == wayLazy && !m.verify)}
	f.delay = time.Duration(l.dice.Int64N(int64(f.fault.within) + 1))
	fr := d.row.results.faultRow(f.fault)
	outcome, bad := f.make(ctx, fr, d.row)
	if ctx.Err() != nil {
		return false
	}
	if bad != nil {
		return d.fail(bad)
	}
	fmt.Fprintf(d.progress, "       %s  %s after %v: %s\n", m.combo, f.fault.name, f.delay.Round(time.Millisecond), outcome)
	if d.befell = fr; f.missed {
		d.befell = nil
	}
	return outcome != lost
}

func (d *ride) fail(bad *failure) bool {
	d.row.fail(*bad)
	fmt.Fprintf(d.progress, "%s  FAILED (%s): %s\n", d.row.combo, bad.Kind, bad.Text)
	return false
}
