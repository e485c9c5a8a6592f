package precopy

import (
	"testing"
	"time"
)

var testLimits = Limits{Downtime: 300 * time.Millisecond, Fixed: 200 * time.Millisecond, Rounds: 30, Total: 5 * time.Minute}

const (
	ms = time.Millisecond
	s  = time.Second
)

// heldBack are rounds at a tenth of the speed that is possible.
var heldBack = []Round{
	{Pages: 1 << 20, Took: 40 * s, Held: 36 * s}, {Pages: 1 << 19, Took: 20 * s, Held: 18 * s, Apart: 40 * s},
	{Pages: 1 << 19, Took: 20 * s, Held: 18 * s, Apart: 20 * s}, {Pages: 1 << 19, Took: 20 * s, Held: 18 * s, Apart: 20 * s},
}

// storm are rounds of a container that writes as fast as it can, slowed down by so many percent.
func storm(percent ...int) []Round {
	rounds := []Round{{Pages: 1 << 20, Took: 4 * s}}
	for _, p := range percent[1:] {
		rounds = append(rounds, Round{Pages: 1 << 19, Took: 2 * s, Apart: 2 * s, Throttle: p})
	}
	return rounds
}

func throttles(l *Limits) { l.Throttles = true }

func yields(l *Limits) { l.Yields = true }

func TestNext(t *testing.T) {
	for name, c := range map[string]struct {
		rounds []Round
		total  time.Duration
		limits func(*Limits)
		want   Reason
	}{
		"one round is never enough": {rounds: []Round{{Pages: 100, Took: ms}}, want: Again},
		"quiet container":           {rounds: []Round{{Pages: 1 << 20, Took: 4 * s}, {Pages: 20, Took: ms, Apart: 4 * s}}, want: Fits},
		"second round too large":    {rounds: []Round{{Pages: 1 << 20, Took: 4 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 4 * s}}, want: Again},
		"rest in proportion to the time": { // 40,000 pages in 4 s, but only 0.15 s to send them
			rounds: []Round{{Pages: 1 << 20, Took: 4 * s}, {Pages: 40_000, Took: 150 * ms, Apart: 4 * s}}, want: Fits},
		"writes as fast as the link": {rounds: []Round{
			{Pages: 1 << 20, Took: 4 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 4 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 2 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 2 * s},
		}, want: Stalled},
		"one round that did not shrink is luck": {rounds: []Round{
			{Pages: 1 << 20, Took: 4 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 4 * s}, {Pages: 1 << 18, Took: s, Apart: 2 * s}, {Pages: 1 << 18, Took: s, Apart: s},
		}, want: Again},
		"one round that did not shrink is enough": {rounds: []Round{
			{Pages: 1 << 20, Took: 4 * s}, {Pages: 1 << 18, Took: s, Apart: 4 * s}, {Pages: 1 << 18, Took: s, Apart: s},
		}, limits: func(l *Limits) { l.Patience = 1 }, want: Stalled},
		"too many rounds": {rounds: []Round{{Pages: 1 << 20, Took: 4 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 4 * s}},
			limits: func(l *Limits) { l.Rounds = 2 }, want: MaxRounds},
		"too long": {rounds: []Round{{Pages: 1 << 20, Took: 4 * s}, {Pages: 1 << 19, Took: 2 * s, Apart: 4 * s}}, total: 6 * time.Minute, want: MaxTotal},
		"a downtime below the fixed part still ends": {rounds: []Round{{Pages: 1 << 20, Took: 4 * s}, {Pages: 10, Took: ms, Apart: 4 * s}},
			limits: func(l *Limits) { l.Downtime = 50 * ms }, want: Fits},
		"writes as fast as the link, and can be slowed down": {rounds: storm(0, 0, 0, 0), limits: throttles, want: Throttle},
		"slowed down, written before":                        {rounds: storm(0, 0, 0, 0, 20), limits: throttles, want: Again},
		"slowed down, and still as fast":                     {rounds: storm(0, 0, 0, 0, 20, 20), limits: throttles, want: Throttle},
		"slowed down, and hardly slower": {
			rounds: append(storm(0, 0, 0, 0, 20), Round{Pages: 400_000, Took: 1600 * ms, Apart: 2 * s, Throttle: 20}), limits: throttles, want: Throttle},
		"slowed down, and much slower": {
			rounds: append(storm(0, 0, 0, 0, 20), Round{Pages: 300_000, Took: 1200 * ms, Apart: 2 * s, Throttle: 20}), limits: throttles, want: Again},
		"slowed down as far as can be": {rounds: storm(0, 0, 0, 0, 99, 99), want: Stalled},
		"held back first of all":       {rounds: heldBack, limits: func(l *Limits) { l.Yields, l.Throttles = true, true }, want: Hurry},
		"held back, and still shrinking": {rounds: []Round{
			{Pages: 1 << 20, Took: 40 * s, Held: 36 * s}, {Pages: 1 << 19, Took: 22 * s, Held: 18 * s, Apart: 40 * s},
		}, limits: yields, want: Again},
		"held back, the rest fits at full speed": { // 4,000 pages a second, and 0.5 s for what was found
			rounds: []Round{{Pages: 1 << 20, Took: 40 * s, Held: 36 * s}, {Pages: 160_000, Took: 6 * s, Held: 5400 * ms, Apart: 40 * s}}, limits: yields, want: Fits},
		"the same, and the last round will be held back as well": {
			rounds: []Round{{Pages: 1 << 20, Took: 40 * s, Held: 36 * s}, {Pages: 160_000, Took: 8 * s, Held: 7400 * ms, Apart: 40 * s}}, want: Again},
		"held back, and not shrinking":               {rounds: heldBack, limits: yields, want: Hurry},
		"held back by a limit that was asked for":    {rounds: heldBack, want: Stalled},
		"not held back any more, one round":          {rounds: append(heldBack[:4:4], Round{Pages: 1 << 19, Took: 2 * s, Apart: 20 * s}), limits: yields, want: Hurry},
		"not held back any more, and still the same": {rounds: append(heldBack[:4:4], Round{Pages: 1 << 19, Took: 2 * s, Apart: 20 * s}, Round{Pages: 1 << 19, Took: 2 * s, Apart: 2 * s}), limits: yields, want: Stalled},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLimits
			if c.limits != nil {
				c.limits(&l)
			}
			if d := Next(c.rounds, c.total, l); d.Reason != c.want {
				t.Errorf("%+v, want %s", d, c.want)
			}
		})
	}
}

// A container that writes a constant number of pages a second ends by fitting if and only if the link is faster.
func TestNextConverges(t *testing.T) {
	const all, link = 1 << 20, 250_000.0 // pages, pages a second
	for _, dirty := range []float64{0, 100, 1e4, 1e5, 2e5, 3e5, 1e6} {
		rounds := []Round{}
		apart, total := time.Duration(0), time.Duration(0)
		pages := float64(all)
		for {
			took := max(time.Duration(pages/link*float64(s)), ms)
			rounds = append(rounds, Round{Pages: int64(pages), Took: took, Apart: apart})
			total += took
			d := Next(rounds, total, testLimits)
			if !d.More() {
				if want := map[bool]Reason{true: Fits, false: Stalled}[dirty < link*shrinks]; d.Reason != want {
					t.Errorf("%v pages/s: %+v after %d rounds, want %s", dirty, d, len(rounds), want)
				}
				break
			}
			apart = took
			pages = min(dirty*took.Seconds(), all)
		}
	}
}

// What being held back changes is how long it takes, not how it ends.
func TestNextHeldBackEndsAlike(t *testing.T) {
	const all, link, slow = 1 << 20, 250_000.0, 0.1
	for _, dirty := range []float64{0, 100, 1e4, 1e5, 2e5, 3e5, 1e6} {
		l := testLimits
		l.Yields, l.Total, l.Rounds = true, time.Hour, 60
		rounds, hurried := []Round{}, false
		apart, total := time.Duration(0), time.Duration(0)
		pages := float64(all)
		for {
			took := max(time.Duration(pages/link*float64(s)), ms)
			r := Round{Pages: int64(pages), Took: took, Apart: apart}
			if !hurried {
				r.Took = time.Duration(float64(took) / slow)
				r.Held = r.Took - took
			}
			rounds = append(rounds, r)
			total += r.Took
			d := Next(rounds, total, l)
			if !d.More() {
				if want := map[bool]Reason{true: Fits, false: Stalled}[dirty < link*shrinks]; d.Reason != want {
					t.Errorf("%v pages/s: %+v after %d rounds, want %s", dirty, d, len(rounds), want)
				}
				break
			}
			hurried = hurried || d.Reason == Hurry
			apart = r.Took
			pages = min(dirty*r.Took.Seconds(), all)
		}
	}
}
