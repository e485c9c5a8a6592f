package postcopy

import "time"

const (
	// chunkBytes is what is pushed at once.
	chunkBytes = chunkPages * PageSize
	chunkPages = 8
	// leastWindow keeps a machine that is slow to acknowledge, because it is busy, from making the link idle.
	leastWindow = 4 * chunkBytes
	mostWindow  = 16 << 20
	// queueGoal is how long what is pushed may queue on its way: what a page that is asked for may have to wait for.
	queueGoal = 5 * time.Millisecond
)

// window bounds what is pushed and not acknowledged, in bytes, so that the link is busy and its queues are short. It takes the
// shortest time that an acknowledgement took for what it takes without a queue.
type window struct {
	size, flying int
	least        time.Duration // 0: nothing was acknowledged yet
	known        bool          // it was too large before: it is about right
}

func newWindow() window { return window{size: leastWindow} }

// room says whether n more bytes may be pushed. One that yields leaves most of the window to others.
func (w *window) room(n int, yield bool) bool {
	size := w.size
	if yield {
		size = max(size/4, chunkBytes)
	}
	return w.flying == 0 || w.flying+n <= size
}

func (w *window) sent(n int) { w.flying += n }

// acked takes in that n bytes have arrived.
func (w *window) acked(n int) { w.flying = max(w.flying-n, 0) }

// measured takes in how long n bytes took to be acknowledged. At first the window doubles within each trip; once it was too large
// it changes by a little.
func (w *window) measured(n int, took time.Duration) {
	if w.least == 0 || took < w.least {
		w.least = took
	}
	switch {
	case took-w.least > queueGoal:
		w.known = true
		w.size = max(w.size-n/8, leastWindow)
	case w.known:
		w.size = min(w.size+n/16, mostWindow)
	default:
		w.size = min(w.size+n, mostWindow)
	}
}
