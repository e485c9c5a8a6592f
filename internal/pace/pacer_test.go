package pace

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// machine is a host of which time, work and what the container takes are made up. Its clock is the bubble's.
type machine struct {
	mu        sync.Mutex
	cpus      float64
	demand    float64 // of the container, in CPUs, while nobody else works
	costs     float64 // part of it that it loses for each CPU that is taken
	active    float64
	most      float64 // of active
	at        time.Time
	self      time.Duration
	container time.Duration
	idle      time.Duration
	err       error
}

// pass lets time pass up to now. The caller holds mu.
func (m *machine) pass() {
	now := time.Now()
	d := now.Sub(m.at).Seconds()
	m.at = now
	takes := m.demand * max(1-m.costs*m.active, 0)
	m.container += time.Duration(takes * d * float64(time.Second))
	m.self += time.Duration(m.active * d * float64(time.Second))
	m.idle += time.Duration(max(m.cpus-takes-m.active, 0) * d * float64(time.Second))
}

func (m *machine) Sample() (Sample, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass()
	return Sample{At: m.at, Idle: m.idle, Self: m.self, Container: m.container}, m.err
}

func (m *machine) cpu() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass()
	return m.self
}

func (m *machine) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pass()
	change()
	m.most = max(m.most, m.active)
}

const (
	piece      = time.Millisecond
	pieceBytes = 1000
)

// workers do pieces until stop is called.
func (m *machine) workers(ctx context.Context, n int, p *Pacer) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() {
			for ctx.Err() == nil {
				leave, err := p.Enter(ctx)
				if err != nil {
					return
				}
				m.set(func() { m.active++ })
				time.Sleep(piece)
				m.set(func() { m.active-- })
				leave(pieceBytes)
			}
		})
	}
	return func() {
		cancel()
		wait.Wait()
	}
}

func newMachine(cpus float64) *machine { return &machine{cpus: cpus, at: time.Now()} }

// used is how many CPUs were taken over a time from now.
func (m *machine) used(d time.Duration) float64 {
	before := m.cpu()
	time.Sleep(d)
	return (m.cpu() - before).Seconds() / d.Seconds()
}

func TestFixed(t *testing.T) {
	for _, rate := range []float64{0.1, 0.4, 1.5, 3} {
		synctest.Test(t, func(t *testing.T) {
			m := newMachine(4)
			p := newPacer(rate, m.cpu)
			defer m.workers(t.Context(), 4, p)()
			if got := m.used(10 * time.Second); got < rate*0.9 || got > rate*1.1 {
				t.Errorf("took %v CPUs, may take %v", got, rate)
			}
			var most float64
			m.set(func() { most = m.most })
			if most > 1 && rate < 1 {
				t.Errorf("%v pieces at once at a rate of %v", most, rate)
			}
			if held := p.Held().Seconds(); rate < 1 && (held < 10*(1-rate)*0.9 || held > 10*(1-rate)*1.1) {
				t.Errorf("held for %v s of 10 at a rate of %v", held, rate)
			}
		})
	}
}

// What the process takes beside the pieces counts as well, and is not held against it for ever.
func TestCountsTheWholeProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(4)
		p := newPacer(0.5, m.cpu)
		m.set(func() { m.active = 0.25 })
		defer m.workers(t.Context(), 4, p)()
		if got := m.used(10 * time.Second); got < 0.45 || got > 0.55 {
			t.Errorf("took %v CPUs, may take 0.5", got)
		}
		m.set(func() { m.self += time.Hour })
		if got := m.used(10 * time.Second); got < 0.4 || got > 0.55 {
			t.Errorf("took %v CPUs after an hour's debt, may take 0.5", got)
		}
	})
}

func TestNilPacer(t *testing.T) {
	var p *Pacer
	p.Goal(1, time.Now())
	leave, err := p.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave(1)
	if p.Held() != 0 {
		t.Error("held")
	}
}

func TestEnterEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1, func() time.Duration { return 0 })
		p.allow(1, true)
		cause := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			time.Sleep(time.Second)
			cancel(cause)
		}()
		if _, err := p.Enter(ctx); !errors.Is(err, cause) {
			t.Error(err)
		}
		if p.Held() != time.Second {
			t.Errorf("held for %v", p.Held())
		}
	})
}

func TestGoal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine(4)
		p := newPacer(unlimited, m.cpu)
		p.Goal(10*pieceBytes, time.Now().Add(time.Second))
		if got := p.need(time.Now()); got != 0 {
			t.Errorf("%v CPUs are needed before anything is known", got)
		}
		leave, err := p.Enter(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m.set(func() { m.self += 100 * time.Millisecond })
		leave(pieceBytes)
		if got := p.need(time.Now()); got < 0.89 || got > 0.91 {
			t.Errorf("%v CPUs are needed for 0.9 s of work within 1 s", got)
		}
		time.Sleep(time.Second)
		if got := p.need(time.Now()); got != unlimited {
			t.Errorf("%v CPUs are needed when it is late", got)
		}
	})
}

// run has four workers copy beside a container under an Auto.
func runAuto(t *testing.T, m *machine, check func(*Auto)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m.at = time.Now()
		a := newAuto(m, slog.New(slog.DiscardHandler), int(m.cpus), m.cpu)
		defer m.workers(t.Context(), 4, a.Pacer)()
		defer a.Close()
		check(a)
	})
}

func TestAutoOnAnIdleHost(t *testing.T) {
	m := &machine{cpus: 8}
	runAuto(t, m, func(*Auto) {
		if got := m.used(5 * time.Second); got < 3.8 {
			t.Errorf("took %v of 4 CPUs", got)
		}
	})
}

func TestAutoBesideABusyContainer(t *testing.T) {
	m := &machine{cpus: 2, demand: 1.9, costs: 0.5}
	runAuto(t, m, func(*Auto) {
		if got := m.used(10 * time.Second); got < least*0.8 || got > least*1.3 {
			t.Errorf("took %v CPUs", got)
		}
		m.set(func() { m.demand = 0 })
		time.Sleep(4 * time.Second)
		if got := m.used(4 * time.Second); got < 1.5 {
			t.Errorf("took %v CPUs when the container had become quiet", got)
		}
		m.set(func() { m.demand = 1.9 })
		time.Sleep(2 * time.Second)
		if got := m.used(4 * time.Second); got > 2*least {
			t.Errorf("took %v CPUs when the container had become busy again", got)
		}
	})
}

// There is idle time, and yet the container loses by the work.
func TestAutoBesideAContainerThatWaitsForItsPeer(t *testing.T) {
	m := &machine{cpus: 4, demand: 1, costs: 0.2}
	runAuto(t, m, func(*Auto) {
		time.Sleep(5 * time.Second)
		var before, after time.Duration
		m.set(func() { before = m.container })
		time.Sleep(10 * time.Second)
		m.set(func() { after = m.container })
		if got := (after - before).Seconds() / 10; got < 0.95 || got > 0.995 {
			t.Errorf("the container keeps %v of what it takes undisturbed", got)
		}
	})
}

func TestAutoWithoutAMeter(t *testing.T) {
	m := &machine{cpus: 2, demand: 1.9, costs: 0.5, err: errors.New("no meter")}
	runAuto(t, m, func(*Auto) {
		if got := m.used(time.Second); got < 3.9 {
			t.Errorf("took %v of 4 CPUs", got)
		}
	})
}

func TestClosedAutoLetsEverythingIn(t *testing.T) {
	m := &machine{cpus: 2, demand: 1.9, costs: 0.5}
	runAuto(t, m, func(a *Auto) {
		time.Sleep(time.Second)
		a.Close()
		a.Close()
		if got := m.used(time.Second); got < 3.9 {
			t.Errorf("took %v of 4 CPUs", got)
		}
	})
}
