package transfer

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// lane is one byte stream of a session, with a goroutine that writes it and
// one that reads it.
type lane struct {
	s     *Session
	index int
	t     transport
	count counters

	urgent    chan outFrame // control: goes before data
	data      chan outFrame
	pong      chan uint64
	writeDone chan struct{} // closed when nothing more is written
	byeSeen   chan struct{} // closed when the peer's BYE was read

	openMu sync.Mutex // held from drawing a stream id until its OPEN is queued
	nextID uint32
	room   chan struct{} // holds one token for every stream this side has open

	// The reading goroutine's own.
	in       *bufio.Reader
	streams  map[uint32]*StreamReader
	lastOpen uint32

	heard   atomic.Int64 // when bytes last came, as time since s.start
	blocked atomic.Bool  // the reader waits for a consumer, not for the peer
}

// outFrame is an encoded frame on its way to a lane's writer.
type outFrame struct {
	b     []byte
	buf   *buffer       // memory of b, released once written; may be nil
	raw   int           // bytes of raw content in it
	codec Codec         // of a DATA frame
	data  bool          // whether it is one
	sent  chan struct{} // closed once the transport has all of it; may be nil
}

func newLane(s *Session, index int, t transport) *lane {
	l := &lane{
		s: s, index: index, t: t,
		urgent:    make(chan outFrame, 16),
		data:      make(chan outFrame, dataQueue),
		pong:      make(chan uint64, 1),
		writeDone: make(chan struct{}),
		byeSeen:   make(chan struct{}),
		room:      make(chan struct{}, MaxLaneStreams),
		streams:   make(map[uint32]*StreamReader),
	}
	l.in = bufio.NewReaderSize(hearing{l}, 4<<10)
	return l
}

// put queues a frame. On error the frame is still the caller's.
func (l *lane) put(ctx context.Context, queue chan<- outFrame, f outFrame) error {
	select {
	case <-l.s.done:
		return l.s.err
	case <-l.s.closing:
		return ErrClosed
	case <-l.byeSeen:
		return fmt.Errorf("%w by the peer", ErrClosed)
	default:
	}
	select {
	case queue <- f:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-l.s.done:
		return l.s.err
	case <-l.writeDone:
		return ErrClosed
	}
}

// write is the writing goroutine: it sends what is queued, a PING every so
// often, and at the end BYE.
func (l *lane) write(every time.Duration) {
	defer close(l.writeDone)
	ping := time.NewTicker(every)
	defer ping.Stop()
	var meter rateMeter
	for {
		f, last := l.nextOut(ping)
		if last {
			break
		}
		if err := l.send(f, &meter); err != nil {
			l.s.fail(l, "send", l.endedByPeer(err))
			return
		}
	}
	if l.s.Err() == nil {
		l.writeBye()
	}
}

// endedByPeer replaces an error of writing to a peer that has already ended
// the session by one that says so.
func (l *lane) endedByPeer(err error) error {
	select {
	case <-l.byeSeen:
		return fmt.Errorf("%w by the peer", ErrClosed)
	default:
		return err
	}
}

// nextOut returns the next frame to send, urgent ones first; last means that
// there is none because the session is over or ending.
func (l *lane) nextOut(ping *time.Ticker) (f outFrame, last bool) {
	select {
	case f = <-l.urgent:
		return f, false
	default:
	}
	select {
	case f = <-l.urgent:
	case v := <-l.pong:
		f = outFrame{b: plainFrame(framePong, 0, be64(v))}
	case f = <-l.data:
	case <-ping.C:
		f = outFrame{b: plainFrame(framePing, 0, be64(uint64(l.s.clock())))}
	case <-l.s.closing:
		return l.drained()
	case <-l.s.done:
		return f, true
	}
	return f, false
}

// drained returns what is still queued while the session closes.
func (l *lane) drained() (f outFrame, last bool) {
	select {
	case f = <-l.urgent:
		return f, false
	default:
	}
	select {
	case f = <-l.data:
		return f, false
	default:
		return f, true
	}
}

// send hands one frame to the transport and measures how fast it took it.
func (l *lane) send(f outFrame, meter *rateMeter) error {
	start := time.Now()
	_, err := l.t.Write(f.b)
	if f.data {
		if rate, ok := meter.add(len(f.b), time.Since(start)); ok {
			l.count.rate.Store(nextRate(l.count.rate.Load(), rate))
		}
	}
	n := len(f.b)
	f.buf.release()
	if err != nil {
		return err
	}
	l.count.sent(f.codec, f.raw, n, f.data)
	if f.sent != nil {
		close(f.sent)
	}
	return nil
}

// writeBye ends this side of the lane.
func (l *lane) writeBye() {
	_, err := l.t.Write(plainFrame(frameBye, 0))
	if err == nil {
		err = l.t.CloseWrite()
	}
	if err != nil {
		l.s.fail(l, "send", l.endedByPeer(err))
	}
}

// hearing reads from the lane's transport and notes when bytes came.
type hearing struct{ l *lane }

func (h hearing) Read(p []byte) (int, error) {
	n, err := h.l.t.Read(p)
	if n > 0 {
		h.l.hear()
	}
	return n, err
}

// hear notes a sign of life of the peer.
func (l *lane) hear() { l.heard.Store(int64(l.s.clock())) }

// read is the reading goroutine.
func (l *lane) read() {
	if err := l.readFrames(); err != nil {
		l.s.fail(l, "receive", err)
		return
	}
	close(l.byeSeen)
	if int(l.s.byes.Add(1)) == len(l.s.lanes) {
		close(l.s.peerEnded)
	}
	if _, err := l.in.ReadByte(); err == nil {
		l.s.fail(l, "receive", protocolErrorf("bytes after BYE"))
	}
}

// readFrames reads up to the peer's BYE.
func (l *lane) readFrames() error {
	var head [headerSize]byte
	for {
		f, err := readFrame(l.in, &head)
		if err != nil {
			if err == io.EOF {
				err = fmt.Errorf("peer hung up without ending the session: %w", io.ErrUnexpectedEOF)
			}
			return err
		}
		l.count.received(f.header)
		bye, err := l.handle(f)
		if bye || err != nil {
			return err
		}
	}
}

// handle acts on one frame and takes over its buffer.
func (l *lane) handle(f frame) (bye bool, err error) {
	switch f.kind {
	case frameData, frameClose, frameReset:
		return false, l.toStream(f)
	case frameBye:
		if len(l.streams) > 0 {
			return true, protocolErrorf("BYE with %d streams still open", len(l.streams))
		}
		return true, nil
	}
	defer f.buf.release()
	switch f.kind {
	case frameControl:
		return false, l.handleControl(f)
	case frameOpen:
		return false, l.handleOpen(f)
	case framePing:
		l.handlePing(binary.BigEndian.Uint64(f.payload()))
	case framePong:
		sent := time.Duration(binary.BigEndian.Uint64(f.payload()))
		l.count.rtt.Store(int64(max(l.s.clock()-sent, 0)))
	}
	return false, nil
}

func (l *lane) handleControl(f frame) error {
	if l.index != 0 {
		return protocolErrorf("CONTROL on lane %d", l.index)
	}
	if l.s.isClosing() {
		return nil
	}
	return l.s.queueControl(f.payload())
}

// handlePing has the writer answer. When it has not got round to the last
// answer yet, this PING goes without: any bytes are a sign of life.
func (l *lane) handlePing(v uint64) {
	select {
	case l.pong <- v:
	default:
	}
}

// handleOpen makes the reader of a new stream and queues it for Accept. Ids
// carry their lane and only grow, so none is ever used twice.
func (l *lane) handleOpen(f frame) error {
	id := f.stream
	switch {
	case id%MaxLanes != uint32(l.index):
		return protocolErrorf("stream %d opened on lane %d", id, l.index)
	case id <= l.lastOpen:
		return protocolErrorf("stream %d opened after stream %d", id, l.lastOpen)
	case len(l.streams) == MaxLaneStreams:
		return limitExceeded("number of open streams of a lane", MaxLaneStreams+1, MaxLaneStreams)
	}
	l.lastOpen = id
	p := f.payload()
	r := newStreamReader(l.s, id, binary.BigEndian.Uint16(p), append([]byte(nil), p[kindSize:]...))
	l.streams[id] = r
	l.whileBlocked(func() {
		select {
		case l.s.accepted <- r:
		case <-l.s.closing:
		case <-l.s.done:
		}
	})
	return nil
}

// toStream hands a frame to its stream and waits while the stream is full.
func (l *lane) toStream(f frame) error {
	r := l.streams[f.stream]
	if r == nil {
		f.buf.release()
		return protocolErrorf("%v for stream %d, which is not open", f.kind, f.stream)
	}
	if f.kind != frameData {
		delete(l.streams, f.stream)
	}
	select {
	case <-r.discarded:
		f.buf.release()
		return nil
	case r.queue <- f:
		return nil
	default:
	}
	l.whileBlocked(func() {
		select {
		case r.queue <- f:
			return
		case <-r.discarded:
		case <-l.s.closing:
		case <-l.s.done:
		}
		f.buf.release()
	})
	return nil
}

// whileBlocked runs wait with the lane's silence put down to this side: the
// time does not count towards the peer's death.
func (l *lane) whileBlocked(wait func()) {
	l.blocked.Store(true)
	wait()
	l.hear()
	l.blocked.Store(false)
}
