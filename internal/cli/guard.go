package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/network"
)

// guardCommand is the hidden command under which a source agent starts this program as its guard.
const guardCommand = "guard"

// selfExe runs this very program, also after the file it came from was replaced.
const selfExe = "/proc/self/exe"

// runGuard is `migrate guard JOB`: see criu.RunGuard.
func runGuard(args []string, control io.Reader, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "guard: it is started by migrate send, not by hand")
		return 2
	}
	var job criu.GuardJob
	if err := json.Unmarshal([]byte(args[0]), &job); err != nil {
		fmt.Fprintf(stderr, "guard: decode job: %v\n", err)
		return 2
	}
	return criu.RunGuard(job, control, rescue)
}

// How long a guard asks an engine that does not answer; it may just be starting again.
const (
	rescuePatience = 20 * time.Second
	rescuePause    = 500 * time.Millisecond
)

// rescue lets the container of a source agent that died before GO run on.
func rescue(ctx context.Context, job criu.GuardJob) error {
	spec, err := parseEngineSpec(job.Engine)
	if err != nil {
		return err
	}
	asking, cancel := context.WithTimeout(ctx, rescuePatience)
	defer cancel()
	err = resumeAgain(asking, spec, job.ID)
	// the network is opened also when the engine does not answer: processes that run must be reachable
	return errors.Join(err, openNetwork(job.NetNS), unshield(ctx, spec, job.ID))
}

// unshield asks until the engine has the container in its care again.
func unshield(ctx context.Context, spec engineSpec, id string) error {
	return again(ctx, func() error {
		eng, err := spec.open(ctx, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer eng.Close()
		if s, ok := eng.(engine.Shielder); ok {
			return s.Unshield(ctx, id)
		}
		return nil // Resume has done it
	})
}

// resumeAgain asks until the engine resumes the container or says that there is nothing to resume.
func resumeAgain(ctx context.Context, spec engineSpec, id string) error {
	return again(ctx, func() error { return resumeOnce(ctx, spec, id) })
}

// again does something until it succeeds or there is no container for it.
func again(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || errors.Is(err, engine.ErrNotFound) || errors.Is(err, engine.ErrNotRunning) {
			return err
		}
		select {
		case <-time.After(rescuePause):
		case <-ctx.Done():
			return err
		}
	}
}

func resumeOnce(ctx context.Context, spec engineSpec, id string) error {
	spec.Unasked = true // Docker's containers can be resumed without its daemon
	eng, err := spec.open(ctx, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer eng.Close()
	return eng.Resume(ctx, id)
}

// openNetwork removes what an agent that is gone left of its network lock, and tells the neighbours where the container
// is, since the other host may have told them something else.
func openNetwork(netns string) error {
	if netns == "" {
		return nil
	}
	if err := network.RemoveStale(netns); err != nil {
		return fmt.Errorf("open the container's network: %w", err)
	}
	if err := network.Announce(netns); err != nil {
		return fmt.Errorf("announce the container: %w", err)
	}
	return network.Settle(netns, settleLimit)
}

// settleLimit bounds the wait for the container's connections to get through again.
const settleLimit = 5 * time.Second
