package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"migrate/testbed/internal/rig"
)

// taskStates asks both hosts' engines for the container's task; empty: there is none.
func (s *subject) taskStates(ctx context.Context) (states [2]string, err error) {
	for i, site := range s.lab.sites {
		out, err := rig.Run(ctx, site.Host, "ctr", "tasks", "list")
		if err != nil {
			return states, err
		}
		for text := range strings.Lines(out) {
			if f := strings.Fields(text); len(f) >= 3 && f[0] == s.id {
				states[i] = f[2]
			}
		}
	}
	return states, nil
}

// settle waits until everybody has done what they do about the fault, and finds out where the container runs. Where the source
// died or lost its peer so late that it may not decide, it does what the handbook tells people to do.
func (f *faulted) settle(ctx context.Context) (outcome string, byHand bool, err error) {
	err = rig.Eventually(ctx, "the move is over", func() (bool, error) {
		return f.over() && len(f.from.helpers())+len(f.to.helpers()) == 0, nil
	})
	if err != nil {
		return "", false, fmt.Errorf("%w: %v", err, slices.Concat(f.from.helpers(), f.to.helpers()))
	}
	var src, dst string
	err = rig.Eventually(ctx, "one of the hosts has the container", func() (bool, error) {
		states, err := f.subject.taskStates(ctx)
		src, dst = states[f.subject.at], states[1-f.subject.at]
		switch {
		case err != nil:
			return false, err
		case src == "RUNNING" && dst == "":
			outcome = stayed
		case dst == "RUNNING" && src == "":
			outcome = moved
		case src == "" && (dst == "" || dst == "STOPPED"):
			outcome = lost
		case src == "PAUSED" && (dst == "" || dst == "RUNNING"), src == "STOPPED" && dst == "RUNNING" && f.sourceDied():
			byHand, err = true, f.decide(ctx, dst == "RUNNING")
		}
		return outcome != "", err
	})
	if err != nil {
		return "", byHand, fmt.Errorf("%w: it is %q at the source and %q at the destination", err, src, dst)
	}
	return outcome, byHand, nil
}

// decide is what a person does about a container that is frozen at the source, or whose processes have been killed there, but whose
// agent did not live to delete it.
func (f *faulted) decide(ctx context.Context, runsThere bool) error {
	if runsThere {
		return f.from.RemoveContainer(ctx, f.subject.id)
	}
	_, err := rig.Run(ctx, f.from.Host, "migrate", "thaw", "--yes", f.subject.id)
	return err
}

// exitLost is how the mover ends when the container was lost.
const exitLost = 14

// judge checks an outcome against what the fault allows, and what the mover said.
func (f *faulted) judge(outcome string) error {
	expect := f.fault.expect
	if f.missed {
		expect = []string{moved, stayed}
	}
	if !slices.Contains(expect, outcome) {
		return fmt.Errorf("the container is %s, want %s", outcome, strings.Join(expect, " or "))
	}
	code := f.cmd.ProcessState.ExitCode()
	switch want := map[string]bool{moved: code == 0, lost: code == exitLost, stayed: code != 0 && code != exitLost}[outcome]; {
	case want, f.sourceDied():
		return nil
	default:
		return fmt.Errorf("the container is %s, and the mover ends with status %d", outcome, code)
	}
}

// sourceDied tells whether the mover could say anything.
func (f *faulted) sourceDied() bool { return strings.HasPrefix(f.fault.name, "source ") }

// examine checks the program, where it is, and what is left.
func (f *faulted) examine(ctx context.Context, outcome string, r *row) error {
	s := f.subject
	if outcome == lost {
		return errors.Join(s.damage(), f.checkRecord())
	}
	if bad := f.selfCheck(ctx, r); bad != nil {
		return errors.New(bad.Text)
	}
	return errors.Join(s.checkOutput(), s.checkLeft(ctx), f.checkTakenBack(ctx, outcome))
}

// incomingPattern is where destinations note what they take in, as long as anything of it is registered and may have to be taken back.
const incomingPattern = "/var/lib/migrate/incoming/*"

// checkTakenBack waits until the destination has nothing of a container that stayed at the source: one that was cut off learns late that the
// move is over.
func (f *faulted) checkTakenBack(ctx context.Context, outcome string) error {
	if outcome != stayed {
		return nil
	}
	return rig.Eventually(ctx, "the destination has nothing of the container", func() (bool, error) {
		notes, err := filepath.Glob(f.to.Path(incomingPattern))
		if err != nil || len(notes) > 0 {
			return false, err
		}
		known, err := rig.Run(ctx, f.to.Host, "ctr", "containers", "list", "--quiet")
		return err == nil && !slices.Contains(strings.Fields(known), f.subject.id), err
	})
}

// recordPattern is where destinations leave a record of each container whose memory they could not complete.
const recordPattern = "/var/log/migrate/*-fill.json"

func (f *faulted) records() ([]string, error) { return filepath.Glob(f.to.Path(recordPattern)) }

// checkRecord takes the record of a lost container away, which has to be there. There may be others of earlier moves, whose agent died.
func (f *faulted) checkRecord() error {
	records, err := f.records()
	if err != nil {
		return err
	}
	records = slices.DeleteFunc(records, func(path string) bool { return slices.Contains(f.before, path) })
	if len(records) != 1 {
		return fmt.Errorf("records of the lost container: %v, want one", records)
	}
	text, err := os.ReadFile(records[0])
	if err != nil {
		return err
	}
	var record struct{ Result, Cause string }
	if err := json.Unmarshal(text, &record); err != nil {
		return fmt.Errorf("the record of the lost container: %w: %s", err, text)
	}
	if record.Result != lost || record.Cause == "" {
		return fmt.Errorf("the record of the lost container says %s", text)
	}
	return os.Remove(records[0])
}
