package transfer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// burstTime is how much unused bandwidth a bucket saves up. It makes good for
// timers that fire late; more would let idle time turn into bursts.
const burstTime = 50 * time.Millisecond

// bucket caps a rate. It works on credit: whoever finds no debt goes at once
// and leaves its bytes as debt for the next, so the rate is exact however
// large a single frame is.
type bucket struct {
	now func() time.Time
	cap atomic.Int64 // rate, to be read without the lock

	mu      sync.Mutex
	rate    float64 // bytes per second; 0 means no cap
	credit  float64 // bytes; negative while in debt
	last    time.Time
	changed chan struct{} // closed when the rate changes
}

func newBucket(rate int64, now func() time.Time) *bucket {
	b := &bucket{now: now, last: now(), changed: make(chan struct{})}
	b.setRate(rate)
	return b
}

// setRate changes the cap for everybody, those who wait included.
func (b *bucket) setRate(rate int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	b.rate = float64(max(rate, 0))
	b.cap.Store(int64(b.rate))
	close(b.changed)
	b.changed = make(chan struct{})
}

// current is the cap in bytes per second, 0 for none.
func (b *bucket) current() int64 { return b.cap.Load() }

func (b *bucket) refill() {
	now := b.now()
	b.credit = min(b.credit+b.rate*now.Sub(b.last).Seconds(), b.rate*burstTime.Seconds())
	b.last = now
}

// take spends n bytes and returns 0, or spends nothing and returns how long
// the debt lasts and a channel that tells when the rate changes meanwhile.
func (b *bucket) take(n int) (time.Duration, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refill()
	if b.rate == 0 {
		b.credit = 0
		return 0, nil
	}
	if b.credit < 0 {
		return max(time.Duration(-b.credit/b.rate*float64(time.Second)), time.Microsecond), b.changed
	}
	b.credit -= float64(n)
	return 0, nil
}

// wait blocks until n bytes may go, ctx ends or done is closed. The last two
// spend nothing; only ctx ending is an error.
func (b *bucket) wait(ctx context.Context, done <-chan struct{}, n int) error {
	for {
		d, changed := b.take(n)
		if d == 0 {
			return nil
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-done:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
