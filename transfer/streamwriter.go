package transfer

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/zeebo/blake3"
)

// StreamOptions says how a stream is sent.
type StreamOptions struct {
	// Lane is the data lane to use, counted from 1 and wrapping round, so that
	// worker n can use Lane n whatever the session has. 0 or less means the
	// next one by round robin.
	Lane int
	// Codec is how frames are compressed; the zero value is Auto.
	Codec CodecChoice
	// Rate is what the link can carry, in bytes per second, or 0 while that is not known. It is for streams that are sent in pieces with
	// waits between them, whose lanes look faster than they are; nil leaves it to the lane's own measure.
	Rate func() float64
}

// StreamStats counts what one stream sent.
type StreamStats struct {
	Raw  uint64 // bytes of content
	Wire uint64 // bytes of frames, headers included
	// Frames counts DATA frames by codec.
	Frames [codecCount]uint64
}

// StreamWriter sends one stream. It gathers what it is given into frames.
// Streams are either plain (Write, ReadFrom) or placed (Place). A StreamWriter
// is for one goroutine at a time; many may be in use on one session.
type StreamWriter struct {
	ctx  context.Context
	s    *Session
	l    *lane
	id   uint32
	auto chooser
	rate func() float64 // see StreamOptions
	hash streamHash

	buf   *buffer // frame being gathered, nil when there is none
	n     int     // bytes in it
	size  int     // bytes at which it is sent
	off   int64   // where its first byte belongs, for placed streams
	stats StreamStats
	err   error // sticky
}

// OpenStream opens a stream towards the peer, whose Accept returns it with the
// same kind and meta. It waits while the lane already has MaxLaneStreams open.
// ctx stays with the stream: when it ends, writes fail. The caller must end
// the stream with Close or Reset.
func (s *Session) OpenStream(ctx context.Context, kind uint16, meta []byte, o StreamOptions) (*StreamWriter, error) {
	if len(meta) > MaxMeta {
		return nil, fmt.Errorf("open stream: %w", &LimitError{What: "size of stream metadata", Got: uint64(len(meta)), Max: MaxMeta})
	}
	l := s.lanes[s.dataLane(o.Lane)]
	id, err := l.open(ctx, kind, meta)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return &StreamWriter{ctx: ctx, s: s, l: l, id: id, auto: chooser{choice: o.Codec}, rate: o.Rate}, nil
}

// dataLane maps the lane a caller wants to one that carries data.
func (s *Session) dataLane(want int) int {
	if len(s.lanes) == 1 {
		return 0
	}
	n := want - 1
	if want <= 0 {
		n = int(s.nextLane.Add(1)-1) % s.Lanes()
	}
	return 1 + n%s.Lanes()
}

// open takes a place among the lane's streams, draws an id and queues OPEN.
func (l *lane) open(ctx context.Context, kind uint16, meta []byte) (id uint32, err error) {
	select {
	case l.room <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	case <-l.s.done:
		return 0, l.s.err
	case <-l.writeDone:
		return 0, ErrClosed
	}
	l.openMu.Lock()
	defer l.openMu.Unlock()
	if l.nextID > math.MaxUint32-MaxLanes {
		err = &LimitError{What: "number of streams of a lane", Got: math.MaxUint32 / MaxLanes, Max: math.MaxUint32/MaxLanes - 1}
	} else {
		l.nextID += MaxLanes
		id = l.nextID | uint32(l.index)
		err = l.put(ctx, l.data, outFrame{b: plainFrame(frameOpen, id, be16(kind), meta)})
	}
	if err != nil {
		<-l.room
	}
	return id, err
}

// ID is the stream's number in the session, the same at both sides.
func (w *StreamWriter) ID() uint32 { return w.id }

// Stats counts what was sent so far, without what is still being gathered.
func (w *StreamWriter) Stats() StreamStats { return w.stats }

// Sum is the hash that Close sends: BLAKE3 over the content of a plain stream,
// unless SumBy says otherwise; see docs/PROTOCOL.md for placed ones. It is
// meaningful after Close.
func (w *StreamWriter) Sum() [32]byte { return w.hash.sum() }

// SumBy is for content that is hashed anyway, in a way of its own: sum is asked
// for the hash of all that was written when the stream is closed, and nothing
// else is hashed. The peer's reader must use its SumBy likewise. It is called
// before anything is written; such a stream is plain.
func (w *StreamWriter) SumBy(sum func() [32]byte) { w.hash.by(sum) }

// Write sends p as the next bytes of a plain stream. p may be reused.
func (w *StreamWriter) Write(p []byte) (int, error) {
	if err := w.begin(false); err != nil {
		return 0, err
	}
	written := 0
	for written < len(p) {
		n := copy(w.space(), p[written:])
		if err := w.grow(n); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// ReadFrom sends all of r without copying it once more; io.Copy uses it.
func (w *StreamWriter) ReadFrom(r io.Reader) (int64, error) {
	if err := w.begin(false); err != nil {
		return 0, err
	}
	var total int64
	for {
		n, err := r.Read(w.space())
		total += int64(n)
		if growErr := w.grow(n); growErr != nil {
			return total, growErr
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// Place sends p, which belongs at off, on a placed stream. Pieces that join
// each other share a frame. p may be reused.
func (w *StreamWriter) Place(p []byte, off int64) error {
	if err := w.begin(true); err != nil {
		return err
	}
	if off < 0 || off > math.MaxInt64-int64(len(p)) {
		return fmt.Errorf("place %d bytes at %d: offset out of range", len(p), off)
	}
	for len(p) > 0 {
		if w.n > 0 && w.off+int64(w.n) != off {
			if err := w.Flush(); err != nil {
				return err
			}
		}
		if w.n == 0 {
			w.off = off
		}
		n := copy(w.space(), p)
		if err := w.grow(n); err != nil {
			return err
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// begin checks that the stream can take content of this sort.
func (w *StreamWriter) begin(placed bool) error {
	if w.err != nil {
		return w.err
	}
	if !w.hash.use(placed) {
		return fmt.Errorf("stream %d: plain and placed content do not mix", w.id)
	}
	return nil
}

// frameSize is how much to gather: less when bandwidth is scarce, so that one
// frame does not spend a long time's worth at once.
func (w *StreamWriter) frameSize() int {
	size := w.s.opts.FrameSize
	if limit := w.s.limit.current(); limit > 0 {
		size = min(size, max(int(min(limit/20, MaxFrame)), minFrameSize))
	}
	return size
}

// space is the free part of the frame being gathered, never empty.
func (w *StreamWriter) space() []byte {
	if w.buf == nil {
		w.size = w.frameSize()
		w.buf, w.n = getBuffer(w.size), 0
	}
	return w.buf.content()[w.n:w.size]
}

// grow counts n bytes put into space and sends the frame when it is full.
func (w *StreamWriter) grow(n int) error {
	w.n += n
	if w.n < w.size {
		return nil
	}
	return w.Flush()
}

// Flush sends what is gathered without waiting for a full frame.
func (w *StreamWriter) Flush() error {
	if w.err != nil || w.n == 0 {
		return w.err
	}
	raw := w.buf.content()[:w.n]
	w.hash.add(w.off, raw)
	f, err := w.encode(raw)
	if err == nil {
		err = w.queue(f)
	}
	w.buf, w.n = nil, 0
	return err
}

// encode makes a DATA frame of raw, which is in w.buf; it takes over w.buf.
func (w *StreamWriter) encode(raw []byte) (outFrame, error) {
	codec := w.auto.next(w.linkRate())
	buf, n := w.buf, len(raw)
	if codec != CodecNone {
		start := time.Now()
		packed, size, err := compress(codec, raw)
		if err != nil {
			return outFrame{}, w.fail("compress", err)
		}
		if packed == nil {
			w.auto.learn(codec, n, n, time.Since(start))
			codec = CodecNone
		} else {
			w.auto.learn(codec, n, size, time.Since(start))
			w.buf.release()
			buf, n = packed, size
		}
	}
	w.stats.Frames[codec]++
	return w.assemble(buf, n, len(raw), codec), nil
}

// assemble puts header and offset before n bytes of content in buf.
func (w *StreamWriter) assemble(buf *buffer, n, raw int, codec Codec) outFrame {
	placed := w.hash.placed
	h := header{kind: frameData, codec: codec, placed: placed, stream: w.id, wire: uint32(n), raw: uint32(raw)}
	from := headroom - headerSize
	if placed {
		from -= offsetSize
		h.wire += offsetSize
		binary.BigEndian.PutUint64(buf.b[headerSize:], uint64(w.off))
	}
	h.put(buf.b[from:])
	return outFrame{b: buf.b[from : headroom+n], buf: buf, raw: raw, codec: codec, data: true}
}

// linkRate is what this stream's lane can carry, as far as known: its measured
// rate, or its share of the cap.
func (w *StreamWriter) linkRate() float64 {
	rate := float64(w.l.count.rate.Load())
	if w.rate != nil {
		rate = w.rate()
	}
	if limit := w.s.limit.current(); limit > 0 {
		share := float64(limit) / float64(w.s.Lanes())
		if rate == 0 || share < rate {
			rate = share
		}
	}
	return rate
}

// queue hands a frame to the lane within the bandwidth.
func (w *StreamWriter) queue(f outFrame) error {
	err := w.s.limit.wait(w.ctx, w.s.done, len(f.b))
	if err == nil {
		err = w.l.put(w.ctx, w.l.data, f)
	}
	if err != nil {
		f.buf.release()
		return w.fail("send", err)
	}
	w.stats.Raw += uint64(f.raw)
	w.stats.Wire += uint64(len(f.b))
	return nil
}

// Close sends what is gathered, then the stream's length and hash, by which
// the peer knows that it has everything. It does not wait for the peer.
// Closing twice is harmless.
func (w *StreamWriter) Close() error {
	if errors.Is(w.err, errStreamEnded) {
		return nil
	}
	if err := w.Flush(); err != nil {
		return err
	}
	sum := w.hash.sum()
	return w.finish(plainFrame(frameClose, w.id, be64(w.stats.Raw), sum[:]))
}

// Reset gives the stream up: the peer's reader gets a ResetError with code.
// After a successful Close it does nothing. It works, within the session's
// life, even when the stream's context has ended.
func (w *StreamWriter) Reset(code uint16) error {
	if errors.Is(w.err, errStreamEnded) {
		return nil
	}
	w.buf.release()
	w.buf, w.n, w.err = nil, 0, nil
	w.ctx = context.WithoutCancel(w.ctx)
	return w.finish(plainFrame(frameReset, w.id, be16(code)))
}

// errStreamEnded is what writes to a stream get after Close or Reset.
var errStreamEnded = errors.New("stream is closed")

// finish queues the stream's last frame and gives its place on the lane back.
func (w *StreamWriter) finish(b []byte) error {
	if err := w.l.put(w.ctx, w.l.data, outFrame{b: b}); err != nil {
		return w.fail("end", err)
	}
	w.err = fmt.Errorf("stream %d: %w", w.id, errStreamEnded)
	<-w.l.room
	return nil
}

func (w *StreamWriter) fail(what string, err error) error {
	w.err = fmt.Errorf("%s stream %d: %w", what, w.id, err)
	return w.err
}

// placedContext separates hashes of placed streams from those of plain ones.
const placedContext = "migrate transfer 1 placed stream"

// streamHash is the hash of a stream: of the content alone when it is plain;
// when it is placed, of offset, length and content of each frame.
type streamHash struct {
	h      *blake3.Hasher
	placed bool
	own    func() [hashSize]byte // instead, see StreamWriter.SumBy
}

// by makes sum the hash.
func (s *streamHash) by(sum func() [hashSize]byte) { s.use(false); s.own = sum }

// use fixes the sort of stream at first; later it reports whether it is that.
func (s *streamHash) use(placed bool) bool {
	if s.h == nil {
		s.placed = placed
		if placed {
			s.h = blake3.NewDeriveKey(placedContext)
		} else {
			s.h = blake3.New()
		}
	}
	return s.placed == placed
}

// add takes in one frame's content.
func (s *streamHash) add(off int64, p []byte) {
	if s.own != nil {
		return
	}
	if s.placed {
		var place [12]byte
		binary.BigEndian.PutUint64(place[:], uint64(off))
		binary.BigEndian.PutUint32(place[8:], uint32(len(p)))
		_, _ = s.h.Write(place[:])
	}
	_, _ = s.h.Write(p)
}

// sum is the hash so far; an empty stream counts as plain.
func (s *streamHash) sum() (out [hashSize]byte) {
	if s.own != nil {
		return s.own()
	}
	if s.h == nil {
		s.use(false)
	}
	copy(out[:], s.h.Sum(nil))
	return out
}
