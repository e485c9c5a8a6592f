package transfer

import "time"

// A cut link is noticed here, by its silence, rather than by the kernel:
// TCP_USER_TIMEOUT also ends connections whose peer is alive and merely does
// not read (Linux ≥ 5.11 counts a zero window as lack of progress), which is
// what back-pressure looks like. Closing the transports frees blocked writers.

// clock is the time since the session started.
func (s *Session) clock() time.Duration { return time.Since(s.start) }

func (s *Session) isClosing() bool {
	select {
	case <-s.closing:
		return true
	default:
		return false
	}
}

// watch ends the session when nothing has come on a lane for too long.
func (s *Session) watch() {
	every := max(s.opts.DeadAfter/10, time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	last := s.clock()
	for {
		select {
		case <-tick.C:
		case <-s.done:
			return
		}
		now := s.clock()
		if now-last > s.opts.DeadAfter/2 {
			// This process was stopped, as machines that migrate themselves
			// are; the peer's bytes may be waiting unread.
			s.forgive()
		}
		last = now
		if s.checkAlive(now) {
			return
		}
	}
}

// forgive starts all lanes' silence anew.
func (s *Session) forgive() {
	for _, l := range s.lanes {
		l.hear()
	}
}

// checkAlive ends the session if a lane is dead, and reports that.
func (s *Session) checkAlive(now time.Duration) (dead bool) {
	for _, l := range s.lanes {
		if silent := l.silence(now); silent > s.opts.DeadAfter {
			s.fail(l, "watch", &DeadError{Silent: silent})
			return true
		}
	}
	return false
}

// silence is for how long the peer has owed this lane a sign of life.
func (l *lane) silence(now time.Duration) time.Duration {
	select {
	case <-l.byeSeen:
		return 0
	default:
	}
	if l.blocked.Load() {
		return 0
	}
	return now - time.Duration(l.heard.Load())
}
