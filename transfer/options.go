package transfer

import (
	"log/slog"
	"time"
)

// Options tunes sessions. The zero value is good for use.
type Options struct {
	// Lanes is how many lanes Dial opens, 1 to MaxLanes; 0 means 4. Listeners
	// take what the source asks for; pipes always have one.
	Lanes int
	// Limit caps the data frames of a session, in bytes on the wire per
	// second; 0 means no cap. SetBandwidth changes it later.
	Limit int64
	// FrameSize is how many raw bytes a StreamWriter gathers into a frame, up
	// to MaxFrame; 0 means 256 KiB.
	FrameSize int
	// Keepalive is the longest time between two signs of life sent on a lane;
	// 0 means 1 s. A peer with a short DeadAfter gets them more often.
	Keepalive time.Duration
	// DeadAfter is the silence after which the peer is given up; 0 means 10 s.
	DeadAfter time.Duration
	// HandshakeTimeout bounds everything between a connection and its session;
	// 0 means 10 s.
	HandshakeTimeout time.Duration
	// CloseTimeout bounds how long Close waits for queued bytes to leave, and
	// for the peer's end; 0 means 5 s.
	CloseTimeout time.Duration
	// MaxSessions is how many sessions a Listener has at a time; 0 means 16.
	MaxSessions int
	// MaxPending is how many connections of a Listener may be in their
	// handshake at a time; 0 means 128.
	MaxPending int
	// Log receives refused peers and ends of sessions; nil discards them.
	Log *slog.Logger

	// versions is what this side claims to speak; tests pose as other builds.
	versions VersionRange
}

func (o Options) withDefaults() Options {
	setDefault(&o.Lanes, defaultLanes)
	setDefault(&o.FrameSize, defaultFrameSize)
	setDefault(&o.Keepalive, defaultKeepalive)
	setDefault(&o.DeadAfter, defaultDeadAfter)
	setDefault(&o.HandshakeTimeout, defaultHandshakeTimeout)
	setDefault(&o.CloseTimeout, defaultCloseTimeout)
	setDefault(&o.MaxSessions, defaultMaxSessions)
	setDefault(&o.MaxPending, defaultMaxPending)
	setDefault(&o.versions, VersionRange{MinVersion, MaxVersion})
	o.Lanes = min(max(o.Lanes, 1), MaxLanes)
	o.FrameSize = min(max(o.FrameSize, minFrameSize), MaxFrame)
	o.DeadAfter = max(o.DeadAfter, pingsPerDeath*minPing)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// setDefault gives *p the value def when it has none.
func setDefault[T comparable](p *T, def T) {
	var zero T
	if *p == zero {
		*p = def
	}
}

// pingEvery is how often a lane sends a sign of life to a peer that gives up
// after peerDeadAfter.
func pingEvery(keepalive, peerDeadAfter time.Duration) time.Duration {
	return max(min(keepalive, peerDeadAfter/pingsPerDeath), minPing)
}
