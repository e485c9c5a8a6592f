package migrate

import (
	"context"
	"fmt"
	"time"

	"migrate/internal/cgroup"
	"migrate/internal/throttle"
)

// throttler slows the container down when it writes memory faster than it can be sent. A nil one never does.
type throttler struct {
	s     *sender
	usage *cgroup.Usage
	t     *throttle.Throttle // nil until the first step

	// when the round under way began, and what the container had taken until then
	since time.Time
	taken time.Duration
	cpus  float64 // that it took during the last round before the first step
}

// newThrottler makes one when that is wanted and possible.
func (s *sender) newThrottler() *throttler {
	if !s.opt.Memory.Throttle {
		return nil
	}
	u, err := cgroup.UsageOf(s.h.Pid)
	if err != nil {
		s.noThrottling(err)
		return nil
	}
	t := &throttler{s: s, usage: u}
	t.measure()
	return t
}

func (s *sender) noThrottling(err error) {
	s.log.Warn("the container is not slowed down", "err", err)
	s.clock.Note(fmt.Sprintf("the container is not slowed down: %v", err))
}

// measure notes what the container took since the last call.
func (t *throttler) measure() {
	if t == nil || t.t != nil {
		return
	}
	now := time.Now()
	taken, err := t.usage.Time()
	if err != nil {
		return // a container that has ended
	}
	if took := now.Sub(t.since).Seconds(); !t.since.IsZero() && took > 0 {
		t.cpus = (taken - t.taken).Seconds() / took
	}
	t.since, t.taken = now, taken
}

// percent is how much is taken away of what the container took.
func (t *throttler) percent() int {
	if t == nil || t.t == nil {
		return 0
	}
	return t.t.Percent()
}

// more says whether the container can be slowed down further.
func (t *throttler) more() bool { return t != nil && (t.t == nil || t.t.More()) }

// step slows the container down further.
func (t *throttler) step(ctx context.Context) error {
	if t.t == nil {
		th, err := throttle.Start(ctx, t.s.opt.Throttler, t.s.h.Pid, t.cpus, t.s.held)
		if err != nil {
			return err
		}
		t.t = th
		t.s.push("take back the container's CPU limit", func(context.Context) error { return th.End() })
	}
	if err := t.t.Step(ctx); err != nil {
		return err
	}
	t.s.log.Info("the container is slowed down", "percent", t.t.Percent(), "cpus_before", t.cpus)
	return nil
}

// end gives the container what it had, before it is dumped: its limit is part of what CRIU dumps, and CRIU itself runs in the
// container for some time.
func (t *throttler) end() error {
	if t == nil || t.t == nil {
		return nil
	}
	t.s.copier.Throttled(0)
	return t.t.End()
}
