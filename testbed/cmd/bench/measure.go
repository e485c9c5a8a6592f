package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"
)

// What can be measured, in the order in which it is.
const (
	measureMoves = "moves" // what a move costs, beside other tools
	measureLink  = "link"  // how much of the link the first round uses
	measureLoad  = "load"  // what is left to the container's program meanwhile
	measureGap   = "gap"   // what clients notice
	measurePost  = "post"  // what it costs to leave memory behind at first, on a slow link

	measureCheck    = "check"    // what a look at a container with many processes costs
	measurePostgres = "postgres" // what moving a database with a lot of shared memory costs
	measureDocker   = "docker"   // what moving a Docker container costs, beside Docker's own checkpoints
)

var measureNames = []string{measureMoves, measureLink, measureLoad, measureGap, measurePost, measureCheck, measurePostgres, measureDocker}

const (
	warmUps   = 1
	moveLimit = 5 * time.Minute // of one move with everything around it
)

// measure does all that is asked for and gathers the results.
func (l *lab) measure(ctx context.Context, progress io.Writer) (*results, error) {
	res := &results{Version: resultsVersion, Host: l.describe(ctx), used: l.used}
	all := map[string]func(context.Context, io.Writer, *results) error{
		measureMoves: l.measureMoves, measureLink: l.measureLink, measureLoad: l.measureLoad,
		measureGap: l.measureGap, measurePost: l.measurePost, measureCheck: l.measureCheck, measurePostgres: l.measurePostgres,
		measureDocker: l.measureDocker,
	}
	for _, name := range measureNames {
		if !slices.Contains(l.measures, name) {
			continue
		}
		if err := all[name](ctx, progress, res); err != nil {
			return nil, fmt.Errorf("measure %s: %w", name, err)
		}
	}
	res.judge()
	return res, nil
}

// measureMoves has all tools take turns.
func (l *lab) measureMoves(ctx context.Context, progress io.Writer, res *results) error {
	for i := range warmUps {
		if _, err := l.round(ctx, fmt.Sprintf("w%d", i), i, l.sizes[0], progress, res); err != nil {
			return err
		}
	}
	for i := range l.runs {
		for _, mib := range l.sizes {
			samples, err := l.round(ctx, fmt.Sprintf("r%d", i+1), i, mib, progress, res)
			if err != nil {
				return err
			}
			if samples != nil {
				res.add(l, mib, samples)
			}
		}
	}
	return nil
}

// round has every tool that takes part move one container of a size. It returns nothing if one of them failed. The
// order changes from round to round.
func (l *lab) round(ctx context.Context, label string, turn, mib int, progress io.Writer, res *results) (map[string]sample, error) {
	samples, failed := map[string]sample{}, false
	for i := range l.used {
		t := l.used[(i+turn)%len(l.used)]
		if !l.takesPart(t.name(), mib, turn) {
			continue
		}
		s, err := l.one(ctx, t, label, mib)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			failed = true
			res.fail(progress, err, "%-4s %4d MiB  %-8s", label, mib, t.name())
			continue
		}
		samples[t.name()] = s
		fmt.Fprintf(progress, "%-4s %4d MiB  %-8s %8.1f ms\n", label, mib, t.name(), s.downtime)
	}
	if failed {
		return nil, nil
	}
	return samples, nil
}

// fail counts a run that failed, and tells.
func (r *results) fail(progress io.Writer, err error, format string, args ...any) {
	r.Failures++
	fmt.Fprintf(progress, format+" FAILED: %v\n", append(args, err)...)
}

// one is one move, from the making of the container to its removal.
func (l *lab) one(ctx context.Context, t tool, label string, mib int) (sample, error) {
	s := l.subject(fmt.Sprintf("%s-%d-%s", t.name(), mib, label), mib)
	s.dirty = dirtyPages(mib, l.dirty)
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	defer l.wipe(context.WithoutCancel(ctx), s)
	return t.move(ctx, s)
}

// subject is a container that has never been there before.
func (l *lab) subject(id string, mib int) subject {
	l.seed++
	return subject{id: id, mib: mib, seed: l.seed}
}
