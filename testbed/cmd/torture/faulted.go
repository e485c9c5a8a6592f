package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"time"

	"migrate/testbed/internal/rig"
)

// A faulted move is one that a fault befalls.
type faulted struct {
	*move
	fault    fault
	delay    time.Duration // after the phase
	from, to *site

	cmd    *exec.Cmd
	stderr rig.Tail
	ended  chan struct{}
	missed bool     // the fault came too late
	before []string // records that the destination had of earlier moves
}

const kindFault = "fault" // after a fault something was not as it has to be

// make makes the move, has the fault strike, and checks what there is afterwards. The outcome is empty if that failed.
func (f *faulted) make(ctx context.Context, row *faultRow, r *row) (outcome string, bad *failure) {
	s := f.subject
	f.from, f.to = s.lab.sites[s.at], s.lab.sites[1-s.at]
	f.to.agent.Said.Take()
	fail := func(err error) (string, *failure) {
		return "", &failure{
			Kind: kindFault, Text: fmt.Sprintf("%s after %v: %v", f.fault.name, f.delay, err),
			From: f.from.Name, Verify: f.verify, Seed: s.seed, Send: f.stderr.Text(), Agent: f.to.agent.Said.Take(),
		}
	}
	before, err := f.records()
	if err != nil {
		return fail(err)
	}
	f.before = before
	if err := f.start(ctx); err != nil {
		return fail(err)
	}
	if err := f.suffer(ctx); err != nil {
		return fail(err)
	}
	out, byHand, err := f.settle(ctx)
	if err != nil {
		return fail(err)
	}
	if err := f.judge(out); err != nil {
		return fail(err)
	}
	if out == moved {
		s.at = 1 - s.at
	}
	if err := f.examine(ctx, out, r); err != nil {
		return fail(fmt.Errorf("the container is %s; %w", out, err))
	}
	f.note(row, out, byHand)
	return out, nil
}

func (f *faulted) note(row *faultRow, out string, byHand bool) {
	if f.missed {
		row.Missed++
		return
	}
	row.Struck++
	row.Outcomes[out]++
	if byHand {
		row.ByHand++
	}
	if out != lost {
		row.Verified++
	}
}

// start starts the mover.
func (f *faulted) start(ctx context.Context) error {
	argv := slices.DeleteFunc(f.args(f.to), func(a string) bool { return a == "--json" }) // with it there is no progress
	if f.fault.slow {
		argv = append(argv, "--bandwidth", slowRate)
	}
	f.cmd = f.from.Command(ctx, argv...)
	f.cmd.Stdout, f.cmd.Stderr = &f.stderr, &f.stderr
	f.cmd.WaitDelay = time.Second // the guard outlives it
	f.ended = make(chan struct{})
	if err := f.cmd.Start(); err != nil {
		return err
	}
	go func() {
		_ = f.cmd.Wait() // its state tells
		close(f.ended)
	}()
	return nil
}

func (f *faulted) over() bool {
	select {
	case <-f.ended:
		return true
	default:
		return false
	}
}

var phaseEnd = regexp.MustCompile(`(?m)^([a-z]+) +done in`)

// past tells whether a phase is over, as the progress says.
func (f *faulted) past(phase string) bool {
	for _, m := range phaseEnd.FindAllStringSubmatch(f.stderr.Text(), -1) {
		if m[1] == phase {
			return true
		}
	}
	return false
}

// suffer waits for the moment and has the fault strike.
func (f *faulted) suffer(ctx context.Context) error {
	err := rig.Eventually(ctx, "phase "+f.fault.after+" is over", func() (bool, error) { return f.past(f.fault.after) || f.over(), nil })
	if err != nil {
		return err
	}
	select {
	case <-time.After(f.delay):
	case <-f.ended:
	}
	if f.missed = f.over(); f.missed {
		return nil
	}
	f.to.agent.Token = "" // the hosts know each other since before that phase
	return f.fault.strike(ctx, f)
}
