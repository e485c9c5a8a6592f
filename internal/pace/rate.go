package pace

import (
	"math"
	"time"
)

// Numbers behind the rate.
const (
	// least is the rate, in CPUs, below which nothing is ever bounded.
	least = 0.1
	// Others are left this part of what they use on top of it, to use more when they want to.
	room = 0.1
	// A container that takes less than this many CPUs is not compared with itself: what it takes in a look is chance.
	countable = 0.1
	// A container is to lose about aim of what it takes undisturbed. Above tolerable the rate falls, below aim it rises.
	aim, tolerable = 0.02, 0.03
	// fade is how much an older look counts beside the one after it.
	fade = 0.6
)

// unlimited is the rate without a bound.
var unlimited = math.Inf(1)

// use is how many CPUs were used on average over some time.
type use struct {
	took      time.Duration
	idle      float64 // by nobody
	self      float64 // by this process
	container float64
}

// between is what was used from one sample to a later one.
func between(a, b Sample) use {
	took := b.At.Sub(a.At)
	per := func(d time.Duration) float64 { return d.Seconds() / max(took.Seconds(), 1e-6) }
	return use{took: took, idle: per(b.Idle - a.Idle), self: per(b.Self - a.Self), container: per(b.Container - a.Container)}
}

// rule finds the rate. It is free of I/O and time.
type rule struct {
	cpus      float64 // of the host
	spare     float64 // CPUs that others leave, averaged over looks
	quiet     float64 // that the container takes undisturbed, likewise
	weight    float64 // of the looks so far
	container float64 // bound on the rate that keeps the container from losing too much
}

func newRule(cpus int) *rule { return &rule{cpus: float64(cpus), container: unlimited} }

// look takes in what was seen while all work stood still.
func (r *rule) look(u use) {
	w := r.weight * fade
	r.spare = (r.spare*w + u.idle + u.self) / (w + 1)
	r.quiet = (r.quiet*w + u.container) / (w + 1)
	r.weight = w + 1
}

// work takes in what was seen while there was work.
func (r *rule) work(u use) {
	if r.quiet < countable {
		r.container = unlimited
		return
	}
	from := min(r.container, max(u.self, least)) // a bound that was not reached was none
	switch loss := 1 - u.container/r.quiet; {
	case loss > tolerable:
		r.container = from * max(aim/loss, 0.5)
	case loss < aim && u.self > r.container/2:
		r.container *= 1.25
	}
	r.container = max(r.container, least)
}

// rate is how many CPUs may be taken, of which need are needed to be through in time.
func (r *rule) rate(need float64) float64 {
	others := max(r.cpus-r.spare, 0)
	return max(min(r.spare-room*others, r.container), need, least)
}

// alone says whether others take next to nothing.
func (r *rule) alone() bool { return r.cpus-r.spare < 0.15*r.cpus }

// surprised says whether things have changed so much since the last look that it is time for another one.
func surprised(before, now use) bool {
	const some, share = 0.2, 0.3
	return math.Abs(now.container-before.container) > some+share*before.container
}
