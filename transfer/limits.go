package transfer

import "time"

// Protocol versions this build speaks, lowest and highest.
const (
	MinVersion = 1
	MaxVersion = 1
)

// Limits of the protocol. A peer that exceeds one breaks the protocol; every
// length is held against its limit before memory is set aside for it.
const (
	// MaxLanes is the highest number of lanes of a session.
	MaxLanes = 16
	// MaxControl is the highest size in bytes of one control message.
	MaxControl = 4 << 20
	// MaxControlQueue is how many control messages may wait to be received.
	MaxControlQueue = 64
	// MaxControlQueueBytes is how many bytes those may hold together.
	MaxControlQueueBytes = 16 << 20
	// MaxMeta is the highest size in bytes of a stream's metadata.
	MaxMeta = 64 << 10
	// MaxFrame is the highest number of raw bytes in one DATA frame.
	MaxFrame = 1 << 20
	// MaxLaneStreams is how many streams one side may have open on one lane.
	MaxLaneStreams = 32
)

const (
	// streamQueue is how many frames wait for a stream's consumer before its
	// lane stops. MaxLaneStreams × streamQueue × MaxFrame bounds the memory a
	// peer can make a lane hold.
	streamQueue = 4
	// dataQueue is how many data frames wait for a lane's writer: enough to
	// overlap compression with sending, no more.
	dataQueue = 4

	minFrameSize     = 4 << 10
	defaultFrameSize = 256 << 10
	defaultLanes     = 4

	defaultKeepalive        = time.Second
	defaultDeadAfter        = 10 * time.Second
	defaultHandshakeTimeout = 10 * time.Second
	defaultCloseTimeout     = 5 * time.Second

	defaultMaxSessions = 16
	defaultMaxPending  = 128
	// maxPendingHost leaves room for every lane of one session and a few more,
	// and keeps one host from taking all pending places.
	maxPendingHost = 2 * MaxLanes

	// minPing bounds how often a peer can make this side send keepalives.
	minPing = 10 * time.Millisecond
	// pingsPerDeath is how many keepalives fit into the silence after which
	// the peer gives up.
	pingsPerDeath = 4
)
