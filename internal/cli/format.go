package cli

import (
	"fmt"
	"time"
)

// size renders bytes.
func size(n int64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%d B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	case n < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
}

// span renders a duration with three digits or so.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

// spanMS is span for the report's milliseconds.
func spanMS(ms float64) string { return span(time.Duration(ms * float64(time.Millisecond))) }

// remaining renders an estimate, which has no use for fractions.
func remaining(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%d s left", int(d.Seconds()+0.999))
	}
	return d.Round(time.Second).String() + " left"
}
