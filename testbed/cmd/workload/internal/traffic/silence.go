package traffic

import (
	"slices"
	"sync"
	"time"
)

// A Silence is a time without progress, by the client's clock.
type Silence struct {
	MS    float64   `json:"ms"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
}

// maxSilences bounds how many are noted; those after are not.
const maxSilences = 1000

// A watch notes the silences that last for long enough. Its methods may be called concurrently.
type watch struct {
	least time.Duration

	mu       sync.Mutex
	last     time.Time // of progress; zero before the first
	silences []Silence
	longest  Silence
}

// progress notes that there was some, now.
func (w *watch) progress() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if s, ok := w.since(now); ok {
		w.note(s)
	}
	w.last = now
}

// since is the time since the last progress.
func (w *watch) since(now time.Time) (Silence, bool) {
	if w.last.IsZero() {
		return Silence{}, false
	}
	return Silence{float64(now.Sub(w.last).Microseconds()) / 1000, w.last.UTC(), now.UTC()}, true
}

func (w *watch) note(s Silence) {
	if s.MS > w.longest.MS {
		w.longest = s
	}
	if s.Ended.Sub(s.Began) >= w.least && len(w.silences) < maxSilences {
		w.silences = append(w.silences, s)
	}
}

// seen returns the longest silence and those that are long enough; the last may still go on.
func (w *watch) seen() (longest Silence, list []Silence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := watch{least: w.least, last: w.last, silences: slices.Clone(w.silences), longest: w.longest}
	if s, ok := all.since(time.Now()); ok {
		all.note(s)
	}
	return all.longest, all.silences
}
