package precopy

import "time"

// Limits bound the rounds.
type Limits struct {
	Downtime  time.Duration // that the container may stand still
	Fixed     time.Duration // part of it that does not depend on how much memory is left
	Rounds    int           // at most
	Total     time.Duration // at most, since the first round began
	Throttles bool          // the container can be slowed down, further than it is
	Yields    bool          // rounds may be held back no longer, and the last one before the freeze is not
	Patience  int           // so many rounds in a row that do not shrink end them; 0: the usual
}

func (l Limits) patience() int {
	if l.Patience > 0 {
		return l.Patience
	}
	return patience
}

// Round is what one round did.
type Round struct {
	Pages    int64         // that were written, or new
	Shared   int64         // pages of shared memory that were looked at for that
	Took     time.Duration // from the scan until the destination had stored everything
	Throttle int           // how much the container is slowed down, in percent
	Held     time.Duration // part of it in which work stood still to spare the container
	Apart    time.Duration // since the scan of the round before: what the pages had time to be written in
}

// busy is how long the round would have taken without being held.
func (r Round) busy() time.Duration { return r.Took - r.Held }

// rate in pages per second while work did not stand still: nothing is held once the container is frozen.
func (r Round) rate() float64 { return float64(r.Pages) / max(r.busy().Seconds(), 1e-6) }

// spared says whether being held is why the round took so long.
func (r Round) spared() bool { return r.Held > r.Took/10 }

// Reason says why rounds go on or end.
type Reason string

// The reasons.
const (
	Again     Reason = "more-to-send"  // another round leaves less
	Fits      Reason = "fits"          // the rest fits the downtime
	Hurry     Reason = "hurry"         // another round, not held back: held back, they no longer shrink
	Throttle  Reason = "throttle"      // another round, with the container slowed down: they no longer shrink
	Stalled   Reason = "not-shrinking" // the container writes as fast as the link takes it
	MaxRounds Reason = "max-rounds"    // Limits.Rounds
	MaxTotal  Reason = "max-total"     // Limits.Total
)

// Decision is what Next thinks of the rounds so far.
type Decision struct {
	Reason Reason
	Rest   int64         // pages expected to be written by the time of a freeze now
	Needs  time.Duration // that sending them takes at the measured rate
}

// More says whether another round is worth it.
func (d Decision) More() bool { return d.Reason == Again || d.Reason == Hurry || d.Reason == Throttle }

// A round counts as shrinking when it leaves less than this share of the one before it; so many that do not end the rounds.
const (
	shrinks  = 0.9
	patience = 2
	// A container that is slowed down is to get through with it: steps are many, and each is worth a try of two rounds, of which the
	// first one was mostly written before.
	shrinksSlowed = 0.7
)

// Next decides after a round whether there is another one. It is a pure function of what was measured.
//
// What is left when the container is frozen is what it writes during one more look: about what the last round found, in
// proportion to the time that round itself took; without the time in which it was held back if the look before the freeze is not.
//
// Rounds that are held back to spare the container leave more than they would have to. That they no longer shrink says that it is time to hold
// them back no longer, not that there is nothing to be gained.
func Next(rounds []Round, total time.Duration, l Limits) Decision {
	last := rounds[len(rounds)-1]
	d := Decision{Rest: last.Pages}
	if len(rounds) > 1 {
		// pages are written again and again: twice the time is at most twice the pages
		again := last.Took
		if l.Yields {
			again = last.busy()
		}
		share := min(again.Seconds()/max(last.Apart.Seconds(), 1e-6), 1)
		d.Rest = int64(float64(last.Pages) * share)
	}
	d.Needs = time.Duration(float64(d.Rest) / best(rounds) * float64(time.Second))
	switch {
	case len(rounds) > 1 && d.Needs <= budget(l):
		d.Reason = Fits
	case len(rounds) >= l.Rounds:
		d.Reason = MaxRounds
	case total >= l.Total:
		d.Reason = MaxTotal
	case stalled(rounds, l.patience()) && l.Yields && spared(rounds):
		d.Reason = Hurry
	case stalled(rounds, l.patience()) && l.Throttles:
		d.Reason = Throttle
	case stalled(rounds, l.patience()):
		d.Reason = Stalled
	default:
		d.Reason = Again
	}
	return d
}

// budget is the part of the downtime that is there for memory, never nothing.
func budget(l Limits) time.Duration { return max(l.Downtime-l.Fixed, l.Downtime/8) }

// best is the highest rate of a round that was long enough to be measured; short ones consist of waiting for answers.
func best(rounds []Round) float64 {
	const measurable = 1024 // pages
	rate := 0.0
	for _, r := range rounds {
		if r.Pages >= measurable || rate == 0 {
			rate = max(rate, r.rate())
		}
	}
	return max(rate, 1)
}

// stalled says whether the last rounds have not become smaller.
func stalled(rounds []Round, patience int) bool {
	if len(rounds) < patience+2 { // the first one is everything, and no measure for the second
		return false
	}
	if last, before := rounds[len(rounds)-1], rounds[len(rounds)-2]; last.Throttle > 0 {
		return before.Throttle == last.Throttle && float64(last.Pages) > shrinksSlowed*float64(before.Pages)
	}
	for i := len(rounds) - patience; i < len(rounds); i++ {
		if float64(rounds[i].Pages) < shrinks*float64(rounds[i-1].Pages) {
			return false
		}
	}
	return true
}

// spared says whether any of the rounds that have not become smaller was held back.
func spared(rounds []Round) bool {
	for _, r := range rounds[len(rounds)-patience:] {
		if r.spared() {
			return true
		}
	}
	return false
}
