package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"migrate/internal/report"
	"migrate/testbed/internal/rig"
)

func killSource(_ context.Context, f *faulted) error { return f.cmd.Process.Kill() }

// killDestination kills the agent, and starts the next one as a service manager would.
func killDestination(ctx context.Context, f *faulted) error {
	f.to.agent.Kill()
	return f.to.agent.Start(ctx)
}

// silence is longer than agents wait for a peer that says nothing.
const silence = 15 * time.Second

// cutLink cuts the destination off until the source has given up, or long enough for that.
func cutLink(ctx context.Context, f *faulted) error {
	if err := f.to.Cut(); err != nil {
		return err
	}
	select {
	case <-f.ended:
	case <-ctx.Done():
	case <-time.After(silence):
	}
	return f.to.Heal()
}

// killDestinationInFill kills the agent of a container whose memory is not in place. The pager does without.
func killDestinationInFill(ctx context.Context, f *faulted) error {
	pager, err := f.beforeFill(ctx)
	if err != nil || f.missed {
		return err
	}
	f.to.agent.Kill()
	return errors.Join(f.to.signal(ctx, "-CONT", pager), f.to.agent.Start(ctx))
}

// killPager kills the pager of a container whose memory is not in place. The container must never run with anything else there.
func killPager(ctx context.Context, f *faulted) error {
	pager, err := f.beforeFill(ctx)
	if err != nil || f.missed {
		return err
	}
	const aWhile = 300 // milliseconds in which the program runs into memory that is not there
	time.Sleep(time.Duration(rand.IntN(aWhile)) * time.Millisecond)
	return f.to.signal(ctx, "-KILL", pager)
}

// heldLimit is less than the time after which the agents give up on each other.
const heldLimit = 8 * time.Second

// drain is how long what the source has said until it was stopped may take to be read.
const drain = 100 * time.Millisecond

// beforeFill brings the move to where the container runs at the destination and nothing fills its memory: the pager, whose process it
// returns, has been stopped while the source was, right before the point of no return.
func (f *faulted) beforeFill(ctx context.Context) (pager string, err error) {
	sender, err := f.from.find(func(argv []string) bool {
		return len(argv) > 2 && argv[0] == "migrate" && argv[1] == "send" && argv[2] == f.subject.id
	})
	if err != nil {
		f.missed = true
		return "", nil
	}
	if err := f.from.signal(ctx, "-STOP", sender); err != nil {
		f.missed = errors.Is(err, errEnded)
		return "", unlessMissed(f, err)
	}
	for end := time.Now().Add(heldLimit); !strings.Contains(f.to.agent.Said.Text(), "msg=held") && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
	}
	time.Sleep(drain)
	if f.missed = !strings.Contains(f.to.agent.Said.Text(), "msg=held") || f.past(report.Restore); f.missed {
		return "", f.from.signal(ctx, "-CONT", sender)
	}
	pager, err = f.to.find(func(argv []string) bool {
		return len(argv) > 2 && argv[1] == "pager" && strings.Contains(argv[2], `"role":"worker"`)
	})
	if err == nil {
		err = f.to.signal(ctx, "-STOP", pager)
	}
	// one that had all memory in place already has ended; what becomes of the move tells whether that is why
	f.missed = errors.Is(err, errEnded)
	if err := errors.Join(unlessMissed(f, err), f.from.signal(ctx, "-CONT", sender)); err != nil || f.missed {
		return "", err
	}
	return pager, rig.Eventually(ctx, "the container runs at the destination", func() (bool, error) {
		return f.past(report.Handover) || f.over(), nil
	})
}

// errEnded is returned when a process is not there to be struck.
var errEnded = errors.New("there is no such process")

func unlessMissed(f *faulted, err error) error {
	if f.missed {
		return nil
	}
	return err
}

// find returns the process whose arguments are as is says, as the host numbers it.
func (s *site) find(is func(argv []string) bool) (string, error) {
	proc := s.Path("/proc")
	pids := pidsIn(proc)
	i := slices.IndexFunc(pids, func(pid int) bool { return is(argvOf(proc, pid)) })
	if i < 0 {
		return "", fmt.Errorf("host %s: %w", s.Name, errEnded)
	}
	return strconv.Itoa(pids[i]), nil
}

func (s *site) signal(ctx context.Context, sig, pid string) error {
	_, err := rig.Run(ctx, s.Host, "kill", sig, pid)
	if err != nil && !s.runs(pid) {
		err = fmt.Errorf("host %s: %w", s.Name, errEnded)
	}
	return err
}

func (s *site) runs(pid string) bool {
	_, err := os.Stat(s.Path("/proc/" + pid))
	return err == nil
}
