package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Session is one authenticated connection between a source and a destination.
// Its methods may be called from several goroutines.
type Session struct {
	lanes []*lane
	peer  PeerInfo
	opts  Options
	log   *slog.Logger
	start time.Time // all lane clocks count from here

	limit    *bucket
	nextLane atomic.Uint32

	control      chan message
	controlBytes atomic.Int64
	accepted     chan *StreamReader

	byes      atomic.Int32  // lanes the peer has ended
	peerEnded chan struct{} // closed when it has ended all
	closing   chan struct{} // closed when Close begins
	closeOnce sync.Once
	done      chan struct{} // closed when the session has ended
	endOnce   sync.Once
	err       error // why it ended; read only after done is closed
	onEnd     func()
}

// message is a control message on its way to RecvControl.
type message struct {
	kind    uint16
	payload []byte
}

// PeerInfo says who the peer is.
type PeerInfo struct {
	// Fingerprint of the peer's key, "SHA256:…"; empty over a pipe, where the
	// command that made the pipe vouches for the peer.
	Fingerprint string
	// Name is the peer's network address, or the command that leads to it.
	Name string
	// Role of the peer.
	Role Role
	// Version of the protocol this session speaks.
	Version uint16
}

// transport is what a lane runs on. CloseWrite tells the peer that no more
// bytes come; Close ends both directions at once and unblocks whoever is in
// Read or Write. Both may be called more than once.
type transport interface {
	io.ReadWriter
	CloseWrite() error
	Close() error
}

// newSession starts a session on lanes whose handshake is done. It owns them
// from here on. onEnd, if not nil, is called once when the session has ended.
func newSession(ts []transport, peer PeerInfo, theirs preface, o Options, onEnd func()) *Session {
	s := &Session{
		peer: peer, opts: o, log: o.Log, start: time.Now(),
		limit:    newBucket(o.Limit, time.Now),
		control:  make(chan message, MaxControlQueue),
		accepted: make(chan *StreamReader, MaxLaneStreams),
		closing:  make(chan struct{}), done: make(chan struct{}),
		peerEnded: make(chan struct{}),
		onEnd:     onEnd,
	}
	every := pingEvery(o.Keepalive, theirs.patience())
	for i, t := range ts {
		s.lanes = append(s.lanes, newLane(s, i, t))
	}
	for _, l := range s.lanes {
		go l.read()
		go l.write(every)
	}
	go s.watch()
	return s
}

// Peer says who the peer is.
func (s *Session) Peer() PeerInfo { return s.peer }

// Lanes is how many lanes carry data: how many streams can make progress
// independently of each other.
func (s *Session) Lanes() int { return max(len(s.lanes)-1, 1) }

// SetBandwidth changes the cap on data frames, in bytes on the wire per
// second; 0 removes it. It takes effect at once, for waiting writers too.
func (s *Session) SetBandwidth(limit int64) { s.limit.setRate(limit) }

// Bandwidth is the present cap in bytes per second, 0 for none.
func (s *Session) Bandwidth() int64 { return s.limit.current() }

// Done is closed when the session has ended; Err tells why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives, then why it ended: ErrClosed after
// Close, what Abort was given, or the failure of a lane.
func (s *Session) Err() error {
	select {
	case <-s.done:
		return s.err
	default:
		return nil
	}
}

// SendControl sends one message on lane 0, ahead of queued data, and returns
// when the transport has taken all of it. When ctx ends first the message may
// or may not have been sent. payload may be reused after the return.
func (s *Session) SendControl(ctx context.Context, kind uint16, payload []byte) error {
	if len(payload) > MaxControl {
		return fmt.Errorf("send control message %d: %w", kind,
			&LimitError{What: "size of a control message", Got: uint64(len(payload)), Max: MaxControl})
	}
	item := outFrame{b: plainFrame(frameControl, 0, be16(kind), payload), raw: len(payload) + kindSize, sent: make(chan struct{})}
	if err := s.lanes[0].put(ctx, s.lanes[0].urgent, item); err != nil {
		return fmt.Errorf("send control message %d: %w", kind, err)
	}
	var end error
	select {
	case <-item.sent:
		return nil
	case <-ctx.Done():
		end = context.Cause(ctx)
		select {
		case <-s.lanes[0].byeSeen: // which may be why ctx ended; the writer is about to say whether it sent the message
			s.awaitSent(item)
		default:
		}
	case <-s.done:
		<-s.lanes[0].writeDone // the writer may have handed over the message and not said so yet
		end = s.err
	}
	select {
	case <-item.sent: // a peer that answers and leaves at once ends both; what was sent was sent
		return nil
	default:
		return fmt.Errorf("send control message %d: %w", kind, end)
	}
}

// awaitSent waits a bounded time until the writer is done with a message, however that ended.
func (s *Session) awaitSent(f outFrame) {
	timer := time.NewTimer(s.opts.CloseTimeout)
	defer timer.Stop()
	select {
	case <-f.sent:
	case <-s.lanes[0].writeDone:
	case <-timer.C:
	}
}

// RecvControl returns the next message; its payload is the caller's. After the
// peer's clean end it returns io.EOF. Messages that came before an end or a
// failure are delivered before the error is.
func (s *Session) RecvControl(ctx context.Context) (kind uint16, payload []byte, err error) {
	m, err := receiveFrom(ctx, s, s.control, s.lanes[0].byeSeen)
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("receive control message: %w", err)
		}
		return 0, nil, err
	}
	s.controlBytes.Add(-int64(len(m.payload)))
	return m.kind, m.payload, nil
}

// Accept returns the next stream the peer opened, or io.EOF after the peer's
// clean end. ctx stays with the stream: when it ends, reads of it fail.
func (s *Session) Accept(ctx context.Context) (*StreamReader, error) {
	r, err := receiveFrom(ctx, s, s.accepted, s.peerEnded)
	if err != nil {
		if err != io.EOF {
			err = fmt.Errorf("accept stream: %w", err)
		}
		return nil, err
	}
	r.ctx = ctx
	return r, nil
}

// receiveFrom takes from queue. What is queued comes before any end: peerEnd
// makes io.EOF, the session's end its error.
func receiveFrom[T any](ctx context.Context, s *Session, queue <-chan T, peerEnd <-chan struct{}) (T, error) {
	var zero T
	var end error
	select {
	case v := <-queue:
		return v, nil
	default:
	}
	select {
	case v := <-queue:
		return v, nil
	case <-ctx.Done():
		return zero, context.Cause(ctx)
	case <-peerEnd:
		end = io.EOF
	case <-s.done:
		end = s.err
	}
	select {
	case v := <-queue:
		return v, nil
	default:
		return zero, end
	}
}

// queueControl hands a message to RecvControl. Control is never held back, so
// a peer that sends more than the queue takes breaks the protocol.
func (s *Session) queueControl(payload []byte) error {
	m := message{kind: binary.BigEndian.Uint16(payload), payload: append([]byte(nil), payload[kindSize:]...)}
	size := int64(len(m.payload))
	if total := s.controlBytes.Add(size); total > MaxControlQueueBytes {
		return limitExceeded("bytes of unread control messages", uint64(total), MaxControlQueueBytes)
	}
	select {
	case s.control <- m:
		return nil
	default:
		return limitExceeded("number of unread control messages", MaxControlQueue+1, MaxControlQueue)
	}
}

// Close ends the session cleanly: what is queued is sent, then each lane's
// end, then the peer's end is awaited. What the peer still sends is dropped.
// Close takes at most twice Options.CloseTimeout. It returns the failure that ended
// the session before, or ErrNoBye when the peer did not end its side in time,
// in which case all was sent but may not have arrived. Streams that are still
// being written make the peer's side fail; close or reset them first.
func (s *Session) Close() error {
	s.closeOnce.Do(func() { close(s.closing) })
	err := s.awaitLanes("send the end", func(l *lane) <-chan struct{} { return l.writeDone })
	if err == nil {
		err = s.awaitLanes("receive the end", func(l *lane) <-chan struct{} { return l.byeSeen })
	}
	s.end(ErrClosed)
	if !errors.Is(s.err, ErrClosed) {
		return s.err
	}
	return err
}

// awaitLanes waits a bounded time until a step of closing is done on all lanes.
func (s *Session) awaitLanes(what string, step func(*lane) <-chan struct{}) error {
	timer := time.NewTimer(s.opts.CloseTimeout)
	defer timer.Stop()
	for _, l := range s.lanes {
		select {
		case <-step(l):
		case <-s.done:
			return nil
		case <-timer.C:
			return fmt.Errorf("close session: %s on lane %d within %v: %w", what, l.index, s.opts.CloseTimeout, ErrNoBye)
		}
	}
	return nil
}

// Abort ends the session at once; queued bytes are lost and the peer sees a
// failure. Blocked calls return err, or ErrClosed when err is nil.
func (s *Session) Abort(err error) {
	if err == nil {
		err = ErrClosed
	}
	s.end(err)
}

// end records why the session is over and tears it down; the first call counts.
func (s *Session) end(err error) {
	s.endOnce.Do(func() {
		s.err = err
		close(s.done)
		for _, l := range s.lanes {
			if err := l.t.Close(); err != nil {
				s.log.Debug("close lane", "peer", s.peer.Name, "lane", l.index, "err", err)
			}
		}
		s.log.Debug("session ended", "peer", s.peer.Name, "reason", err)
		if s.onEnd != nil {
			s.onEnd()
		}
	})
}

// fail ends the session because of a lane.
func (s *Session) fail(l *lane, op string, err error) {
	s.end(&LaneError{Lane: l.index, Op: op, Err: err})
}
