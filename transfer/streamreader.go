package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// StreamReader receives one stream. Use either Next, or Read and WriteTo for
// plain streams. It is for one goroutine at a time, except Discard. It must
// be read to its end or discarded: a stream nobody reads stops its lane.
type StreamReader struct {
	ctx  context.Context
	s    *Session
	id   uint32
	kind uint16
	meta []byte

	queue       chan frame
	discarded   chan struct{}
	discardOnce sync.Once

	hash streamHash
	raw  uint64
	buf  *buffer // what the last Next returned lives in
	rest []byte  // of it, what Read has not returned yet
	err  error   // sticky
}

func newStreamReader(s *Session, id uint32, kind uint16, meta []byte) *StreamReader {
	return &StreamReader{
		ctx: context.Background(), s: s, id: id, kind: kind, meta: meta,
		queue: make(chan frame, streamQueue), discarded: make(chan struct{}),
	}
}

// ID is the stream's number in the session, the same at both sides.
func (r *StreamReader) ID() uint32 { return r.id }

// Kind is what the peer passed to OpenStream.
func (r *StreamReader) Kind() uint16 { return r.kind }

// Meta is what the peer passed to OpenStream; it is the caller's.
func (r *StreamReader) Meta() []byte { return r.meta }

// SumBy is for a stream whose writer uses SumBy: sum returns the hash of all
// that was read so far. It is asked once all of that was, and has to have been
// dealt with: with Read or Next, when the call that returns io.EOF is made;
// with WriteTo, when Write has returned. It is called before anything is read.
func (r *StreamReader) SumBy(sum func() [32]byte) { r.hash.by(sum) }

// Sum is the hash of what was read so far; after io.EOF it is the
// verified one of the whole stream, the same as StreamWriter.Sum.
func (r *StreamReader) Sum() [32]byte { return r.hash.sum() }

// Size is how many bytes of content were read so far.
func (r *StreamReader) Size() uint64 { return r.raw }

// Next returns the next piece of content. p is valid until the next call of
// any method but Discard; it may be changed meanwhile. placed tells whether p
// belongs at off; a stream has either only placed pieces or none.
//
// After the last piece, io.EOF says that all has come and its length and hash
// are right. ErrReset says that the peer gave up. Damage ends the session.
func (r *StreamReader) Next() (off int64, placed bool, p []byte, err error) {
	r.buf.release()
	r.buf, r.rest = nil, nil
	if r.err != nil {
		return 0, false, nil, r.err
	}
	f, err := r.nextFrame()
	if err != nil {
		return 0, false, nil, fmt.Errorf("receive stream %d: %w", r.id, err)
	}
	switch f.kind {
	case frameData:
		off, p, err = r.takeData(f)
	case frameClose:
		err = r.verify(f)
	case frameReset:
		err = &ResetError{Code: binary.BigEndian.Uint16(f.payload())}
		f.buf.release()
	}
	if err != nil {
		return 0, false, nil, r.end(err)
	}
	return off, f.placed, p, nil
}

// nextFrame waits for a frame of this stream.
func (r *StreamReader) nextFrame() (frame, error) {
	select {
	case <-r.discarded:
		return frame{}, errStreamEnded
	default:
	}
	return receiveFrom(r.ctx, r.s, r.queue, nil)
}

// takeData returns a DATA frame's content, which stays in r.buf.
func (r *StreamReader) takeData(f frame) (int64, []byte, error) {
	if !r.hash.use(f.placed) {
		f.buf.release()
		return 0, nil, protocolErrorf("stream mixes plain and placed content")
	}
	off, p, err := splitData(f.header, f.payload())
	if err == nil && f.codec != CodecNone {
		var buf *buffer
		buf, err = decompress(f.codec, p, int(f.raw))
		f.buf.release()
		f.buf = buf
		if err == nil {
			p = buf.content()[:f.raw]
		}
	}
	if err != nil {
		f.buf.release()
		return 0, nil, err
	}
	r.buf = f.buf
	r.hash.add(off, p)
	r.raw += uint64(f.raw)
	return off, p, nil
}

// verify holds what came against what the peer says it sent.
func (r *StreamReader) verify(f frame) error {
	defer f.buf.release()
	size, want := binary.BigEndian.Uint64(f.payload()), f.payload()[8:closeSize]
	got := r.hash.sum()
	if size != r.raw {
		return protocolErrorf("stream has %d bytes, %d were sent", r.raw, size)
	}
	if !bytes.Equal(got[:], want) {
		return protocolErrorf("stream has hash %x, what was sent has %x", got, want)
	}
	return io.EOF
}

// end makes err the stream's last word. A stream that breaks the protocol
// ends the session.
func (r *StreamReader) end(err error) error {
	r.err = err
	if !errors.Is(err, io.EOF) {
		r.err = fmt.Errorf("receive stream %d: %w", r.id, err)
	}
	// While the session closes, frames are dropped, and streams end wrongly.
	if !errors.Is(err, io.EOF) && !errors.Is(err, ErrReset) && !r.s.isClosing() {
		r.s.fail(r.s.lanes[r.id%MaxLanes], "receive", r.err)
	}
	return r.err
}

// errPlaced is what Read and WriteTo get from placed streams.
var errPlaced = errors.New("stream has placed content, which only Next can read")

// advance makes sure that rest has something.
func (r *StreamReader) advance() error {
	if len(r.rest) > 0 {
		return nil
	}
	_, placed, p, err := r.Next()
	if err == nil && placed {
		err = errPlaced
	}
	r.rest = p
	return err
}

// Read reads a plain stream. io.EOF means what it means for Next.
func (r *StreamReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := r.advance(); err != nil {
		return 0, err
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo writes the rest of a plain stream to w; io.Copy uses it. It returns
// without error only after the stream's length and hash proved right.
func (r *StreamReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := r.advance(); err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return total, err
		}
		n, err := w.Write(r.rest)
		total += int64(n)
		r.rest = r.rest[n:]
		if err != nil {
			return total, err
		}
	}
}

// Discard gives up reading: what still comes is dropped, unverified, and the
// lane goes on. It may be called at any time and more than once; a read that
// waits in another goroutine is not woken.
func (r *StreamReader) Discard() {
	r.discardOnce.Do(func() { close(r.discarded) })
	for {
		select {
		case f := <-r.queue:
			f.buf.release()
		default:
			return
		}
	}
}
