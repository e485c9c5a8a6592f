package cli

import (
	"fmt"
	"time"

	"migrate/internal/report"
)

// rateWindow is the time over which a rate is taken: long enough not to flicker, short enough to follow the link.
const rateWindow = 3 * time.Second

// tracker turns events into text. It prints nothing and is told the time.
type tracker struct {
	phase   string
	began   time.Time
	done    int64
	total   int64
	note    string   // the last one
	ended   string   // a phase that is over, until the next one begins: only then is it known to have succeeded
	before  int64    // bytes of pieces of this phase that are over
	samples []sample // of done, within rateWindow
}

type sample struct {
	at   time.Time
	done int64
}

// apply takes an event in and returns the lines that are final by it.
func (t *tracker) apply(ev report.Event, now time.Time) (final []string) {
	switch {
	case ev.Note != "" && ev.Note == t.note:
		return nil // said again every second, say
	case ev.Note != "":
		t.note = ev.Note
		return []string{"note: " + ev.Note}
	case ev.End:
		*t = tracker{ended: t.finished(ev), note: t.note}
		return nil
	case ev.Phase != t.phase:
		final = t.last(true)
		*t = tracker{phase: ev.Phase, began: now, note: t.note}
	}
	if ev.Done == 0 && ev.Total == 0 {
		return final
	}
	if ev.Done < t.done { // another piece of the same phase begins
		t.before += t.done
		t.samples = nil
	}
	t.done, t.total = ev.Done, ev.Total
	t.samples = append(t.samples, sample{now, ev.Done})
	for len(t.samples) > 2 && now.Sub(t.samples[0].at) > rateWindow {
		t.samples = t.samples[1:]
	}
	return final
}

// last returns the line of the phase that is over, if there is one.
func (t *tracker) last(ok bool) []string {
	if t.ended == "" {
		return nil
	}
	how := "done in"
	if !ok {
		how = "failed after"
	}
	line := fmt.Sprintf(t.ended, how)
	t.ended = ""
	return []string{line}
}

// finished is a phase's last line, with room for how it ended.
func (t *tracker) finished(ev report.Event) string {
	text := fmt.Sprintf("%-9s %%s %s", ev.Phase, span(ev.Took))
	if n := t.before + t.done; ev.Phase == t.phase && n > 0 {
		text += "   " + size(n)
	}
	return text
}

// line is the state of the phase under way, "" when there is none.
func (t *tracker) line(now time.Time) string {
	if t.phase == "" {
		return ""
	}
	if t.done == 0 && t.total == 0 {
		return fmt.Sprintf("%-9s %s", t.phase, span(now.Sub(t.began).Truncate(100*time.Millisecond)))
	}
	text := fmt.Sprintf("%-9s ", t.phase)
	// more may come than was expected, when the container goes on writing
	total := max(t.total, t.done)
	if t.total > 0 {
		text += fmt.Sprintf("%3d%%   %s of %s", 100*t.done/total, size(t.done), size(total))
	} else {
		text += size(t.done)
	}
	rate := t.rate()
	if rate <= 0 {
		return text
	}
	text += fmt.Sprintf("   %s/s", size(int64(rate)))
	if t.total > 0 {
		text += "   " + remaining(time.Duration(float64(total-t.done)/rate*float64(time.Second)))
	}
	return text
}

// rate is bytes per second over the window.
func (t *tracker) rate() float64 {
	if len(t.samples) < 2 {
		return 0
	}
	first, last := t.samples[0], t.samples[len(t.samples)-1]
	if took := last.at.Sub(first.at); took > 0 {
		return float64(last.done-first.done) / took.Seconds()
	}
	return 0
}
