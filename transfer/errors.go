package transfer

import (
	"errors"
	"fmt"
	"time"
)

// Sentinels to be matched with errors.Is. Those with details have a type of
// their own (VersionError, PeerKeyError, …) to be had with errors.As.
var (
	// ErrVersion: the peers share no protocol version.
	ErrVersion = errors.New("no common protocol version")
	// ErrPeerKey: the peer's key is not the pinned one.
	ErrPeerKey = errors.New("peer key differs from the pinned key")
	// ErrUnauthorized: the destination does not admit this source.
	ErrUnauthorized = errors.New("not authorized")
	// ErrProtocol: the peer broke the protocol, or bytes were changed on the way.
	ErrProtocol = errors.New("protocol error")
	// ErrLimit: a limit of the protocol was exceeded.
	ErrLimit = errors.New("limit exceeded")
	// ErrClosed: the session was ended by this side or, cleanly, by the peer.
	ErrClosed = errors.New("session closed")
	// ErrDead: the peer was silent for too long.
	ErrDead = errors.New("peer is silent")
	// ErrBusy: the destination has no room for another session now.
	ErrBusy = errors.New("destination has too many sessions")
	// ErrRefused: the peer refused the session; all refusals match it.
	ErrRefused = errors.New("peer refused the session")
	// ErrNoPin: the source has nothing to recognise the destination by.
	ErrNoPin = errors.New("destination's key is unknown: give its fingerprint or an enrolment token, or go over ssh")
	// ErrReset: the peer gave a stream up.
	ErrReset = errors.New("stream reset by peer")
	// ErrNoBye: the peer did not end its side while Close waited for it.
	ErrNoBye = errors.New("peer did not end the session")
	// ErrToken: an enrolment token's text cannot be read.
	ErrToken = errors.New("enrolment token is malformed")
	// ErrTokenExpired: an enrolment token is past its time.
	ErrTokenExpired = errors.New("enrolment token has expired")
	// ErrTokenUsed: an enrolment token is unknown to the destination, or used.
	ErrTokenUsed = errors.New("enrolment token is unknown or already used")
	// ErrKeyFile: the identity file cannot be trusted or read.
	ErrKeyFile = errors.New("identity file is unusable")
)

// VersionRange is a range of protocol versions, both ends included.
type VersionRange struct{ Min, Max uint16 }

func (v VersionRange) String() string {
	if v.Min == v.Max {
		return fmt.Sprintf("%d", v.Min)
	}
	return fmt.Sprintf("%d-%d", v.Min, v.Max)
}

// VersionError says that two peers share no protocol version. Both sides get
// it. It matches ErrVersion.
type VersionError struct{ Local, Remote VersionRange }

func (e *VersionError) Error() string {
	older := "this side"
	if e.Remote.Max < e.Local.Min {
		older = "the peer"
	}
	return fmt.Sprintf("no common protocol version: this side speaks %v, the peer %v; upgrade %s", e.Local, e.Remote, older)
}

// Is matches ErrVersion.
func (e *VersionError) Is(target error) bool { return target == ErrVersion }

// PeerKeyError says that the peer proved a key other than the pinned one. It
// matches ErrPeerKey.
type PeerKeyError struct{ Expected, Got string }

func (e *PeerKeyError) Error() string {
	return fmt.Sprintf("peer key differs from the pinned key: expected %s, got %s", e.Expected, e.Got)
}

// Is matches ErrPeerKey.
func (e *PeerKeyError) Is(target error) bool { return target == ErrPeerKey }

// ProtocolError says what the peer did that the protocol forbids, or what
// arrived damaged. It matches ErrProtocol.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "protocol error: " + e.What }

// Is matches ErrProtocol.
func (e *ProtocolError) Is(target error) bool { return target == ErrProtocol }

func protocolErrorf(format string, args ...any) error {
	return &ProtocolError{What: fmt.Sprintf(format, args...)}
}

// LimitError says which limit was exceeded, in the limit's own unit. It
// matches ErrLimit and, since a peer that exceeds a limit breaks the protocol,
// ErrProtocol when Remote is set.
type LimitError struct {
	What   string
	Got    uint64
	Max    uint64
	Remote bool // exceeded by the peer rather than by the local caller
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("limit exceeded: %s is %d, at most %d allowed", e.What, e.Got, e.Max)
}

// Is matches ErrLimit, and ErrProtocol when the peer is to blame.
func (e *LimitError) Is(target error) bool {
	return target == ErrLimit || (e.Remote && target == ErrProtocol)
}

// DeadError says for how long nothing came from the peer. It matches ErrDead.
type DeadError struct{ Silent time.Duration }

func (e *DeadError) Error() string {
	return fmt.Sprintf("peer is silent for %v", e.Silent.Round(time.Millisecond))
}

// Is matches ErrDead.
func (e *DeadError) Is(target error) bool { return target == ErrDead }

// ResetError carries the code with which the sender gave a stream up. It
// matches ErrReset.
type ResetError struct{ Code uint16 }

func (e *ResetError) Error() string { return fmt.Sprintf("stream reset by peer, code %d", e.Code) }

// Is matches ErrReset.
func (e *ResetError) Is(target error) bool { return target == ErrReset }

// LaneError names the lane whose failure ended the session.
type LaneError struct {
	Lane int
	Op   string // "receive", "send" or "watch"
	Err  error
}

func (e *LaneError) Error() string { return fmt.Sprintf("lane %d: %s: %v", e.Lane, e.Op, e.Err) }

func (e *LaneError) Unwrap() error { return e.Err }
