package pace

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// Sample is how much CPU time was taken up to a moment.
type Sample struct {
	At        time.Time
	Idle      time.Duration // of all CPUs
	Self      time.Duration // by this process
	Container time.Duration
}

// Meter takes samples.
type Meter interface {
	Sample() (Sample, error)
}

// Lengths of what is looked at.
const (
	lookFor  = 25 * time.Millisecond  // long enough for the kernel's ticks
	drain    = 5 * time.Millisecond   // what is on its way when work stops is still sent
	standsIn = 50 * time.Millisecond  // work that does not stop within this time waits for something else than CPUs
	step     = 100 * time.Millisecond // between samples while there is work
	often    = 300 * time.Millisecond // between looks, at first and when the rate changes
	seldom   = 2 * time.Second        // between looks, at last
)

// Auto is a Pacer that finds the rate by itself.
type Auto struct {
	*Pacer
	m    Meter
	log  *slog.Logger
	rule *rule
	end  context.CancelFunc
	wait sync.WaitGroup
	once sync.Once
}

// NewAuto begins with a look. The caller must Close it. When the meter fails there is no bound from then on.
func NewAuto(m Meter, log *slog.Logger) *Auto { return newAuto(m, log, runtime.NumCPU(), cpuTime) }

func newAuto(m Meter, log *slog.Logger, cpus int, cpu func() time.Duration) *Auto {
	ctx, end := context.WithCancel(context.Background())
	a := &Auto{Pacer: newPacer(unlimited, cpu), m: m, log: log, rule: newRule(cpus), end: end}
	a.shut = true
	a.wait.Go(func() {
		if err := a.run(ctx); ctx.Err() == nil {
			a.log.Warn("what copying takes of the CPUs is not bounded", "err", err)
		}
		a.allow(unlimited, false)
	})
	return a
}

// Close takes the bound away. Closing twice is harmless.
func (a *Auto) Close() {
	a.once.Do(a.end)
	a.wait.Wait()
}

// run ends with ctx, or with the meter.
func (a *Auto) run(ctx context.Context) error {
	if err := a.look(ctx); err != nil {
		return err
	}
	rate, every := a.rule.rate(0), often
	if a.rule.alone() {
		every = seldom / 2
	}
	for {
		a.allow(rate, false)
		w, err := a.work(ctx, every)
		if err != nil {
			return err
		}
		if w.self > least || rate <= least {
			if err := a.look(ctx); err != nil {
				return err
			}
		}
		a.rule.work(w)
		old := rate
		rate = a.rule.rate(a.need(time.Now()))
		every = next(every, old, rate, w.self)
		a.log.Debug("pace", "rate", rate, "self", w.self, "idle", w.idle, "container", w.container, "spare", a.rule.spare, "undisturbed", a.rule.quiet)
	}
}

// next is when to look again: later and later while the rate is not what holds the work up, or stays the same.
func next(every time.Duration, old, rate, self float64) time.Duration {
	if bound := self > rate*0.7; bound && (rate < old*0.8 || rate > old*1.2) {
		return often
	}
	return min(every*3/2, seldom)
}

// work watches for some time, or until there is a surprise.
func (a *Auto) work(ctx context.Context, d time.Duration) (use, error) {
	first, err := a.m.Sample()
	if err != nil {
		return use{}, err
	}
	last, before := first, use{}
	for last.At.Sub(first.At) < d {
		if err := sleep(ctx, step); err != nil {
			return use{}, err
		}
		s, err := a.m.Sample()
		if err != nil {
			return use{}, err
		}
		now := between(last, s)
		if last != first && surprised(before, now) {
			last = s
			break
		}
		last, before = s, now
	}
	return between(first, last), nil
}

// look stands still and takes in what the others do meanwhile.
func (a *Auto) look(ctx context.Context) error {
	a.mu.Lock()
	rate := a.rate
	a.mu.Unlock()
	a.allow(rate, true)
	for end := time.Now().Add(standsIn); !a.standing(); {
		if time.Now().After(end) {
			return nil
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	if err := sleep(ctx, drain); err != nil {
		return err
	}
	from, err := a.m.Sample()
	if err != nil {
		return err
	}
	if err := sleep(ctx, lookFor); err != nil {
		return err
	}
	to, err := a.m.Sample()
	if err != nil {
		return err
	}
	a.rule.look(between(from, to))
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("pace: %w", context.Cause(ctx))
	}
}
