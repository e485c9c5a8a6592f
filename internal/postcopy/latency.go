package postcopy

import (
	"math"
	"time"
)

// latencies counts times by their size, eight classes to a doubling: quantiles come within a tenth.
type latencies struct {
	classes [8 * 48]uint32 // from 1 µs on
	count   uint64
}

const perDoubling = 8

func (l *latencies) add(d time.Duration) {
	i := int(math.Log2(max(float64(d)/float64(time.Microsecond), 1)) * perDoubling)
	l.classes[min(i, len(l.classes)-1)]++
	l.count++
}

// quantile is the time that a share of all did not exceed, 0 without any.
func (l *latencies) quantile(share float64) time.Duration {
	if l.count == 0 {
		return 0
	}
	want, sum := uint64(math.Ceil(share*float64(l.count))), uint64(0)
	for i, n := range l.classes {
		if sum += uint64(n); sum >= want {
			return time.Duration(math.Exp2((float64(i)+0.5)/perDoubling) * float64(time.Microsecond))
		}
	}
	return 0
}
