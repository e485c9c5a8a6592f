package handover

import (
	"errors"
	"math/rand"
	"testing"
)

var all = []Event{EvOffer, EvFreeze, EvSeal, EvReady, EvGo, EvCommitted, EvAbort, EvAborted, EvHeld, EvResumed, EvFailed, EvLeaves, EvRuns, EvAllThere, EvLost}

func TestStraightWay(t *testing.T) {
	s, d := NewSource(), NewDestination()
	for _, step := range []struct {
		m    *Machine
		ev   Event
		want State
	}{
		{s, EvOffer, Offered}, {d, EvOffer, Preparing}, {s, EvFreeze, FrozenS}, {s, EvSeal, SealedS}, {d, EvSeal, Restoring},
		{d, EvHeld, Held}, {s, EvReady, ReadyS}, {s, EvGo, InDoubt}, {d, EvGo, Resuming}, {d, EvResumed, Owner},
		{s, EvCommitted, Released},
	} {
		if err := step.m.On(step.ev); err != nil {
			t.Fatal(err)
		}
		if got := step.m.State(); got != step.want {
			t.Fatalf("after %s: state %s, want %s", step.ev, got, step.want)
		}
	}
}

// Memory that stays at the source makes it a server, never again an owner, whatever comes of it.
func TestServing(t *testing.T) {
	for _, end := range []Event{EvAllThere, EvLost} {
		s, d := &Machine{st: InDoubt}, &Machine{st: Resuming}
		for _, step := range []struct {
			m  *Machine
			ev Event
		}{{d, EvRuns}, {s, EvLeaves}, {d, end}, {s, end}} {
			if err := step.m.On(step.ev); err != nil {
				t.Fatal(err)
			}
			if s.MayThaw() {
				t.Errorf("the source may thaw in state %s", s.State())
			}
		}
		if want := map[Event]State{EvAllThere: Owner, EvLost: Gone}[end]; s.State() != Released || d.State() != want {
			t.Errorf("after %s: %s and %s", end, s.State(), d.State())
		}
	}
	for _, ev := range all {
		m := &Machine{st: Serving}
		if _ = m.On(ev); m.MayThaw() {
			t.Errorf("event %s lets a source thaw that serves", ev)
		}
	}
}

func TestForbiddenEventChangesNothing(t *testing.T) {
	m := NewSource()
	var te *TransitionError
	if err := m.On(EvGo); !errors.As(err, &te) || te.From != Running || te.Event != EvGo {
		t.Fatalf("got %v", err)
	}
	if m.State() != Running {
		t.Fatalf("state moved to %s", m.State())
	}
}

func TestInDoubtNeverThawsByItself(t *testing.T) {
	for _, ev := range all {
		m := &Machine{st: InDoubt}
		_ = m.On(ev)
		if m.MayThaw() && ev != EvAborted {
			t.Errorf("event %s lets an in-doubt source thaw", ev)
		}
	}
}

// TestRandomSchedules drives both sides with random events and messages that arrive late, or never, and checks that
// the two may never run at once and that a settled migration has exactly one owner.
func TestRandomSchedules(t *testing.T) {
	for seed := int64(0); seed < 20000; seed++ {
		schedule(t, seed)
	}
}

func schedule(t *testing.T, seed int64) {
	r := rand.New(rand.NewSource(seed))
	s, d := NewSource(), NewDestination()
	var toD, toS []Event
	lost := false // memory that stayed at the source; that ends the container for good
	send := func(q *[]Event, ev Event) {
		if r.Intn(12) > 0 { // one message in twelve is lost with its link
			*q = append(*q, ev)
		}
	}
	for i := 0; i < 60; i++ {
		switch r.Intn(5) {
		case 0, 1:
			ev := all[r.Intn(len(all))]
			switch ev {
			case EvReady, EvCommitted, EvAborted, EvLeaves, EvAllThere, EvLost: // only by message
				continue
			}
			if s.On(ev) == nil {
				send(&toD, ev)
			}
		case 2:
			ev := all[r.Intn(len(all))]
			switch ev {
			case EvOffer, EvSeal, EvGo: // only by message
				continue
			}
			if d.On(ev) == nil {
				switch ev {
				case EvHeld:
					send(&toS, EvReady)
				case EvResumed:
					send(&toS, EvCommitted)
				case EvRuns:
					send(&toS, EvLeaves)
				case EvAllThere, EvLost:
					lost = lost || ev == EvLost
					send(&toS, ev)
				case EvFailed, EvAbort:
					send(&toS, EvAborted)
				}
			}
		case 3:
			if len(toD) > 0 {
				_ = d.On(toD[0])
				toD = toD[1:]
			}
		case 4:
			if len(toS) > 0 {
				_ = s.On(toS[0])
				toS = toS[1:]
			}
		}
		if d.MayResume() && s.MayThaw() {
			t.Fatalf("seed %d: source %s and destination %s may both run", seed, s.State(), d.State())
		}
		if d.State() == Gone && s.State() == Released && !lost {
			t.Fatalf("seed %d: no owner is left", seed)
		}
	}
}
