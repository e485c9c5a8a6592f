package pace

import (
	"context"
	"math"
	"sync"
	"time"
)

// Pacer lets work go on within a rate. It is safe for concurrent use.
type Pacer struct {
	cpu func() time.Duration // that this process has taken

	mu      sync.Mutex
	rate    float64       // CPUs
	shut    bool          // nobody enters
	level   float64       // seconds of CPU time that may be taken before work has to stand still
	paused  bool          // until level is high enough again
	at      time.Time     // when level was right
	spent   time.Duration // cpu() then
	active  int           // pieces being done
	waiting int
	held    time.Duration // in which there was work and none was done
	since   time.Time     // since when that is so, or zero
	changed chan struct{} // closed when somebody who waits should look again
	goal    goal
}

// goal is what there is to do by when.
type goal struct {
	end         time.Time // zero: never
	total, done int64     // bytes
	spent       time.Duration
}

const (
	// burst is how much CPU time is taken at a stretch before work stands still until as much may be taken again. Programs that
	// talk to each other suffer more from being interrupted often than from being interrupted for somewhat longer.
	burst = 40 * time.Millisecond
	// debt is what is paid back at most: files may have been sent meanwhile, or the process have slept.
	debt = 200 * time.Millisecond
	// Waits are between these: what a piece costs is known only some time after it.
	minWait, maxWait = time.Millisecond, 50 * time.Millisecond
)

// Fixed makes a Pacer that lets this process take so many CPUs.
func Fixed(cpus float64) *Pacer { return newPacer(cpus, cpuTime) }

func newPacer(rate float64, cpu func() time.Duration) *Pacer {
	return &Pacer{cpu: cpu, rate: rate, at: time.Now(), spent: cpu(), changed: make(chan struct{})}
}

// Enter waits until a piece of work may be done. The caller calls leave once, with the bytes that were dealt with. A nil Pacer
// lets everything in.
func (p *Pacer) Enter(ctx context.Context) (leave func(bytes int64), err error) {
	if p == nil {
		return func(int64) {}, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		wait, ok := p.admit()
		if ok {
			p.active++
			p.note()
			return p.leave, nil
		}
		if err := p.sleep(ctx, wait); err != nil {
			return nil, err
		}
	}
}

// admit says whether a piece may be done now, or how long to wait before asking again unless something changes.
func (p *Pacer) admit() (wait time.Duration, ok bool) {
	if p.shut {
		return time.Hour, false
	}
	if math.IsInf(p.rate, 1) {
		return 0, true
	}
	if p.rate < 1 && p.active > 0 { // one piece after the other: work that is to be little is not to come all at once
		return time.Hour, false
	}
	p.settle()
	enough := 0.0
	if p.paused {
		enough = burst.Seconds()
	}
	if p.level >= enough {
		p.paused = false
		return 0, true
	}
	p.paused = true
	lacks := burst.Seconds() - p.level
	return min(max(time.Duration(lacks/p.rate*float64(time.Second)), minWait), maxWait), false
}

// settle brings the level up to date.
func (p *Pacer) settle() {
	now, spent := time.Now(), p.cpu()
	if math.IsInf(p.rate, 1) {
		p.level = 0
	} else {
		p.level += now.Sub(p.at).Seconds()*p.rate - (spent - p.spent).Seconds()
		p.level = max(min(p.level, burst.Seconds()), -debt.Seconds())
	}
	p.at, p.spent = now, spent
}

// sleep gives up the lock for as long as it waits.
func (p *Pacer) sleep(ctx context.Context, d time.Duration) error {
	changed := p.changed
	p.waiting++
	p.note()
	p.mu.Unlock()
	t := time.NewTimer(d)
	var err error
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	t.Stop()
	p.mu.Lock()
	p.waiting--
	p.note()
	return err
}

func (p *Pacer) leave(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.active--
	p.goal.done += bytes
	p.note()
	p.tell()
}

// tell wakes everybody who waits.
func (p *Pacer) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// note keeps held up to date after active or waiting changed.
func (p *Pacer) note() {
	idle := p.waiting > 0 && p.active == 0
	switch {
	case idle && p.since.IsZero():
		p.since = time.Now()
	case !idle && !p.since.IsZero():
		p.held += time.Since(p.since)
		p.since = time.Time{}
	}
}

// Held is how long so far there was work to do and none was done. It is 0 for a nil Pacer.
func (p *Pacer) Held() time.Duration {
	if p == nil {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.since.IsZero() {
		return p.held + time.Since(p.since)
	}
	return p.held
}

// Goal says how many bytes there are to deal with from now on, and when that should be done.
func (p *Pacer) Goal(bytes int64, end time.Time) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.goal = goal{end: end, total: bytes, spent: p.cpu()}
}

// need is how many CPUs it takes to reach the goal in time, going by what the part took that is done.
func (p *Pacer) need(now time.Time) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.goal
	left := g.end.Sub(now)
	switch {
	case g.end.IsZero() || g.done == 0 || g.done >= g.total:
		return 0
	case left <= 0:
		return unlimited
	}
	each := (p.cpu() - g.spent).Seconds() / float64(g.done)
	return each * float64(g.total-g.done) / left.Seconds()
}

// allow sets the rate, and lets in or keeps out.
func (p *Pacer) allow(rate float64, shut bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.settle()
	p.rate, p.shut = rate, shut
	p.tell()
}

// standing says whether no piece is being done.
func (p *Pacer) standing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.active == 0
}
