package transfer

import (
	"testing"
	"time"
)

// fakeClock is a clock that moves when told.
type fakeClock struct{ t time.Time }

func (c *fakeClock) now() time.Time { return c.t }

// passed sends frames of n bytes for span of fake time and returns the bytes.
func passed(c *fakeClock, b *bucket, n int, span time.Duration) int {
	total, end := 0, c.t.Add(span)
	for c.t.Before(end) {
		d, _ := b.take(n)
		if d == 0 {
			total += n
			c.t = c.t.Add(time.Microsecond)
			continue
		}
		c.t = c.t.Add(d + 3*time.Millisecond) // timers fire late
	}
	return total
}

func TestBucketKeepsItsRate(t *testing.T) {
	for _, c := range []struct {
		rate  int64
		frame int
	}{{10 << 20, 64 << 10}, {1 << 20, 4 << 10}, {100 << 20, 256 << 10}, {1 << 20, 1 << 20}} {
		clock := &fakeClock{time.Unix(0, 0)}
		got := passed(clock, newBucket(c.rate, clock.now), c.frame, 20*time.Second)
		want := float64(20 * c.rate)
		if off := float64(got)/want - 1; off < -0.06 || off > 0.06 {
			t.Errorf("rate %d, frames of %d: %d bytes in 20 s, %.1f %% off", c.rate, c.frame, got, 100*off)
		}
	}
}

func TestBucketDoesNotSaveUp(t *testing.T) {
	clock := &fakeClock{time.Unix(0, 0)}
	b := newBucket(1<<20, clock.now)
	clock.t = clock.t.Add(time.Hour)
	if got := passed(clock, b, 1000, time.Second); got > 1<<20+1<<17 {
		t.Errorf("%d bytes in a second after an idle hour", got)
	}
}

func TestBucketRateChangesInFlight(t *testing.T) {
	clock := &fakeClock{time.Unix(0, 0)}
	b := newBucket(1000, clock.now)
	b.take(1 << 20) // a long debt
	d, changed := b.take(1)
	if d < time.Minute {
		t.Fatalf("debt of %v", d)
	}
	b.setRate(0)
	select {
	case <-changed:
	default:
		t.Error("waiters do not learn of the change")
	}
	if d, _ := b.take(1 << 30); d != 0 {
		t.Errorf("no cap, yet %v to wait", d)
	}
	b.setRate(1 << 20)
	if got := passed(clock, b, 1000, 10*time.Second); got > 11<<20 || got < 9<<20 {
		t.Errorf("%d bytes in 10 s after the cap came back", got)
	}
}

// TestLimitHoldsOnSession checks that a cap slows a session down, and that
// control is not behind it.
func TestLimitHoldsOnSession(t *testing.T) {
	const limit = 4 << 20
	a, b := tlsPair(t, Options{Lanes: 1, Limit: limit}, Options{})
	start := time.Now()
	var g testGroup
	g.run(func() error {
		w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{Codec: None})
		if err != nil {
			return err
		}
		if _, err := w.Write(noise(limit / 2)); err != nil {
			return err
		}
		return w.Close()
	})
	r, err := b.Accept(testContext(t))
	must(t, err)
	must(t, a.SendControl(testContext(t), 1, nil))
	_, _, err = b.RecvControl(testContext(t))
	must(t, err)
	if r.Size() != 0 {
		t.Error("nothing was read yet")
	}
	for err == nil {
		_, _, _, err = r.Next()
	}
	g.wait(t)
	if took := time.Since(start); took < 350*time.Millisecond {
		t.Errorf("half a second's worth took %v", took)
	}
}
