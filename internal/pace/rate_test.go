package pace

import (
	"math"
	"testing"
	"time"
)

func TestBetween(t *testing.T) {
	at := time.Unix(100, 0)
	got := between(Sample{At: at}, Sample{At: at.Add(2 * time.Second), Idle: time.Second, Self: 500 * time.Millisecond, Container: 3 * time.Second})
	if want := (use{took: 2 * time.Second, idle: 0.5, self: 0.25, container: 1.5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// looked is a rule that has looked often enough for the average to be what was seen.
func looked(cpus int, idle, container float64) *rule {
	r := newRule(cpus)
	for range 20 {
		r.look(use{idle: idle, container: container})
	}
	return r
}

func TestRate(t *testing.T) {
	for name, c := range map[string]struct {
		cpus            int
		idle, container float64
		low, high       float64
	}{
		"idle host":                       {2, 2, 0, 1.9, 2},
		"one of two CPUs in use":          {2, 1, 1, 0.5, 0.9},
		"busy host":                       {2, 0, 0, least, least},
		"nearly busy host":                {2, 0.2, 1, least, least},
		"large host, half of it in use":   {64, 32, 4, 20, 30},
		"more idle than this process may": {2, 30, 0, 2, 30},
	} {
		t.Run(name, func(t *testing.T) {
			if got := looked(c.cpus, c.idle, c.container).rate(0); got < c.low || got > c.high {
				t.Errorf("rate %v, want %v to %v", got, c.low, c.high)
			}
		})
	}
}

// What the container loses decides, however idle the host is.
func TestRateFallsUntilTheContainerKeepsItsShare(t *testing.T) {
	r := looked(8, 6, 1)
	rate := r.rate(0)
	if rate < 4 {
		t.Fatalf("begins with %v", rate)
	}
	const costs = 0.1 // of the container for each CPU that is taken
	for range 30 {
		r.work(use{self: rate, container: 1 - costs*rate})
		rate = r.rate(0)
	}
	if loss := costs * rate; loss > tolerable || loss < aim/3 {
		t.Errorf("settles at %v CPUs, which cost the container %v", rate, loss)
	}
	for range 30 { // it costs nothing any more
		r.work(use{self: rate, container: 1})
		rate = r.rate(0)
	}
	if rate < 4 {
		t.Errorf("rises to %v only", rate)
	}
}

// A bound that nobody comes near says nothing, and does not rise beyond what was tried.
func TestRateOfWorkThatWaitsForTheLink(t *testing.T) {
	r := looked(8, 6, 1)
	r.work(use{self: 0.3, container: 0.9})
	if got := r.rate(0); got > 0.3 {
		t.Errorf("rate %v after 0.3 CPUs cost a tenth", got)
	}
	before := r.rate(0)
	r.work(use{self: before / 4, container: 1})
	if got := r.rate(0); got != before {
		t.Errorf("rose from %v to %v untried", before, got)
	}
}

func TestContainerThatHardlyRunsIsNotCompared(t *testing.T) {
	r := looked(2, 1.9, 0.05)
	r.work(use{self: 1.5, container: 0})
	if got := r.rate(0); got < 1.5 {
		t.Errorf("rate %v", got)
	}
}

func TestRateIsWhatIsNeeded(t *testing.T) {
	r := looked(2, 0, 1.5)
	if got := r.rate(0.7); got != 0.7 {
		t.Errorf("rate %v, 0.7 is needed", got)
	}
	if got := r.rate(unlimited); !math.IsInf(got, 1) {
		t.Errorf("rate %v, it is late", got)
	}
}

func TestSurprised(t *testing.T) {
	for _, c := range []struct {
		before, now float64
		want        bool
	}{{0, 0.1, false}, {0, 0.5, true}, {1, 0.9, false}, {1, 1.2, false}, {1, 0.3, true}, {8, 7, false}, {8, 4, true}} {
		if got := surprised(use{container: c.before}, use{container: c.now}); got != c.want {
			t.Errorf("from %v to %v: %v", c.before, c.now, got)
		}
	}
}
