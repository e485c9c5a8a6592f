package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// A lab is two hosts, each with an agent that takes containers in.
type lab struct {
	options
	rig   *rig.Rig
	sites [2]*site  // containers start at the first
	huge  hugePages // of the machine
	count int       // containers started
	dice  *rand.Rand
}

// setUp raises the hosts and starts the agents.
func setUp(ctx context.Context, o options) (*lab, error) {
	r, err := rig.Raise(ctx, rig.Options{Name: o.name, Link: o.link, Images: []string{testbed.ImageTools}, Binary: o.binary})
	if err != nil {
		return nil, err
	}
	l := &lab{options: o, rig: r, dice: rand.New(rand.NewPCG(o.seed, 1))}
	if err := l.prepare(ctx); err != nil {
		return nil, errors.Join(err, l.close(context.WithoutCancel(ctx)))
	}
	return l, nil
}

func (l *lab) prepare(ctx context.Context) (err error) {
	if err := l.pickCases(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(l.cases, func(c string) bool { return slices.Contains(withServers, c) }) {
		want := testbed.Images{Names: []string{testbed.ImageSubjects}, Workload: l.rig.Workload}
		if err := l.rig.Bed.Import(ctx, want); err != nil {
			return err
		}
	}
	for i, h := range l.rig.Bed.Hosts() {
		if l.sites[i], err = newSite(ctx, h); err != nil {
			return err
		}
	}
	l.huge.reserve()
	return nil
}

// pickCases asks the test program for its cases.
func (l *lab) pickCases(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, l.rig.Workload, "churn", "--list").Output()
	if err != nil {
		return fmt.Errorf("list the cases: %w", err)
	}
	known := strings.Fields(string(out))
	if len(l.cases) == 0 {
		l.cases = known
	}
	for _, name := range l.cases {
		if !strings.Contains(" "+strings.Join(known, " ")+" ", " "+name+" ") {
			return fmt.Errorf("case %q: known are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// close takes everything down.
func (l *lab) close(ctx context.Context) error {
	for _, s := range l.sites {
		if s != nil {
			s.agent.Kill()
		}
	}
	return errors.Join(l.rig.Close(ctx), l.huge.restore())
}
