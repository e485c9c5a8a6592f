package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

func TestRoundTrip(t *testing.T) {
	for name, open := range pairs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := open(t)
			var g testGroup
			g.run(func() error { return sendAll(testContext(t), a) })
			g.run(func() error { return receiveAll(testContext(t), b) })
			g.wait(t)
			st := a.Stats()
			if want := uint64(streamsPerTest * streamSize); st.RawSent < want {
				t.Errorf("raw bytes sent: %d, want at least %d", st.RawSent, want)
			}
			if got := b.Stats().RawReceived; got < streamsPerTest*streamSize {
				t.Errorf("raw bytes received: %d", got)
			}
			closeBoth(t, a, b)
			if _, _, err := b.RecvControl(testContext(t)); !errors.Is(err, io.EOF) && !errors.Is(err, ErrClosed) {
				t.Errorf("after the end: %v", err)
			}
			mustBe(t, a.SendControl(testContext(t), 1, nil), ErrClosed)
		})
	}
}

const (
	streamsPerTest = 8
	streamSize     = 3<<20 + 17
)

func streamContent(i int) []byte {
	if i%2 == 0 {
		return noise(streamSize)
	}
	return text(streamSize)
}

// sendAll sends a message, streams of all sorts side by side, and waits for
// the message that says all is well.
func sendAll(ctx context.Context, s *Session) error {
	if err := s.SendControl(ctx, 7, []byte("offer")); err != nil {
		return err
	}
	errs := make(chan error, streamsPerTest)
	for i := range streamsPerTest {
		go func() { errs <- sendOne(ctx, s, i) }()
	}
	for range streamsPerTest {
		if err := <-errs; err != nil {
			return err
		}
	}
	kind, p, err := s.RecvControl(ctx)
	if err == nil && (kind != 8 || string(p) != "done") {
		err = fmt.Errorf("answer %d %q", kind, p)
	}
	return err
}

func sendOne(ctx context.Context, s *Session, i int) error {
	w, err := s.OpenStream(ctx, uint16(i), []byte{byte(i)}, StreamOptions{Lane: i, Codec: CodecChoice(i / 2 % 4)})
	if err != nil {
		return err
	}
	content := streamContent(i)
	if i%3 == 0 {
		for off := 0; off < len(content); off += 5000 {
			if err := w.Place(content[off:min(off+5000, len(content))], int64(off)); err != nil {
				return err
			}
		}
		return w.Close()
	}
	if _, err := io.Copy(w, struct{ io.Reader }{bytes.NewReader(content)}); err != nil {
		return err
	}
	return w.Close()
}

func receiveAll(ctx context.Context, s *Session) error {
	if kind, p, err := s.RecvControl(ctx); err != nil || kind != 7 || string(p) != "offer" {
		return fmt.Errorf("first message %d %q: %w", kind, p, err)
	}
	errs := make(chan error, streamsPerTest)
	for range streamsPerTest {
		r, err := s.Accept(ctx)
		if err != nil {
			return err
		}
		go func() { errs <- receiveOne(r) }()
	}
	for range streamsPerTest {
		if err := <-errs; err != nil {
			return err
		}
	}
	return s.SendControl(ctx, 8, []byte("done"))
}

func receiveOne(r *StreamReader) error {
	want := streamContent(int(r.Kind()))
	if !bytes.Equal(r.Meta(), []byte{byte(r.Kind())}) {
		return fmt.Errorf("meta %q", r.Meta())
	}
	got := make([]byte, 0, len(want))
	if r.Kind()%3 != 0 {
		var buf bytes.Buffer
		if _, err := io.Copy(&buf, r); err != nil {
			return err
		}
		got = buf.Bytes()
	} else {
		got = got[:len(want)]
		for {
			off, placed, p, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil || !placed {
				return fmt.Errorf("placed %v: %w", placed, err)
			}
			copy(got[off:], p)
		}
	}
	if !bytes.Equal(got, want) || r.Size() != uint64(len(want)) {
		return errors.New("content differs")
	}
	return nil
}

func TestSumsAgree(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{})
	must(t, err)
	_, err = w.Write([]byte("abc"))
	must(t, err)
	must(t, w.Close())
	must(t, w.Close())
	r, err := b.Accept(testContext(t))
	must(t, err)
	_, err = io.ReadAll(r)
	must(t, err)
	if w.Sum() != r.Sum() {
		t.Error("the two sides disagree on the hash")
	}
	// BLAKE3 of "abc", from the BLAKE3 test vectors.
	if got := fmt.Sprintf("%x", r.Sum()); got != "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85" {
		t.Errorf("hash of a plain stream is %s", got)
	}
}

func TestEmptyStream(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{})
	must(t, err)
	must(t, w.Close())
	r, err := b.Accept(testContext(t))
	must(t, err)
	if p, err := io.ReadAll(r); err != nil || len(p) != 0 {
		t.Errorf("got %q, %v", p, err)
	}
}

func TestReset(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{})
	must(t, err)
	_, err = w.Write(text(1 << 20))
	must(t, err)
	must(t, w.Reset(42))
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("a stream can be written after Reset")
	}
	r, err := b.Accept(testContext(t))
	must(t, err)
	_, err = io.ReadAll(r)
	var reset *ResetError
	if !errors.As(err, &reset) || reset.Code != 42 {
		t.Errorf("reader got %v", err)
	}
	if b.Err() != nil {
		t.Errorf("a reset stream ended the session: %v", b.Err())
	}
}

func TestDiscardFreesLane(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	var g testGroup
	g.run(func() error {
		w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{Codec: None})
		if err != nil {
			return err
		}
		if _, err := w.Write(noise(8 << 20)); err != nil {
			return err
		}
		return errors.Join(w.Close(), a.SendControl(testContext(t), 1, nil))
	})
	r, err := b.Accept(testContext(t))
	must(t, err)
	r.Discard()
	_, _, err = b.RecvControl(testContext(t))
	must(t, err)
	g.wait(t)
	closeBoth(t, a, b)
}

func TestPlainAndPlacedDoNotMix(t *testing.T) {
	a, _ := pipePair(t, Options{}, Options{})
	w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{})
	must(t, err)
	_, err = w.Write([]byte("x"))
	must(t, err)
	if err := w.Place([]byte("y"), 0); err == nil {
		t.Error("placed content went into a plain stream")
	}
}

func TestPlaceJoinsNeighbours(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{Codec: None})
	must(t, err)
	for _, off := range []int64{0, 4096, 8192, 1 << 40} {
		must(t, w.Place(noise(4096), off))
	}
	must(t, w.Close())
	r, err := b.Accept(testContext(t))
	must(t, err)
	for _, want := range []struct {
		off int64
		n   int
	}{{0, 3 * 4096}, {1 << 40, 4096}} {
		off, placed, p, err := r.Next()
		if err != nil || !placed || off != want.off || len(p) != want.n {
			t.Errorf("got %d bytes at %d (placed %v, %v), want %v", len(p), off, placed, err, want)
		}
	}
	if _, _, _, err := r.Next(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

func TestCancellation(t *testing.T) {
	calls := map[string]func(ctx context.Context, s *Session) error{
		"RecvControl": func(ctx context.Context, s *Session) error { _, _, err := s.RecvControl(ctx); return err },
		"Accept":      func(ctx context.Context, s *Session) error { _, err := s.Accept(ctx); return err },
		"Write": func(ctx context.Context, s *Session) error {
			w, err := s.OpenStream(ctx, 1, nil, StreamOptions{Codec: None})
			for err == nil {
				_, err = w.Write(make([]byte, 1<<20)) // nobody reads at the peer
			}
			return err
		},
		"OpenStream": func(ctx context.Context, s *Session) error {
			var err error
			for err == nil {
				_, err = s.OpenStream(ctx, 1, nil, StreamOptions{})
			}
			return err
		},
		"limited Write": func(ctx context.Context, s *Session) error {
			s.SetBandwidth(1)
			w, err := s.OpenStream(ctx, 1, nil, StreamOptions{Codec: None})
			for err == nil {
				_, err = w.Write(make([]byte, 1<<20))
			}
			return err
		},
	}
	reason := errors.New("called off")
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, _ := pipePair(t, Options{}, Options{})
			ctx, cancel := context.WithCancelCause(testContext(t))
			time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
			mustBe(t, call(ctx, a), reason)
			if a.Err() != nil {
				t.Errorf("a cancelled call ended the session: %v", a.Err())
			}
		})
	}
}

func TestAbortFreesBlockedCalls(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	reason := errors.New("container is gone")
	errs := make(chan error, 2)
	go func() { _, _, err := a.RecvControl(testContext(t)); errs <- err }()
	go func() { _, err := a.Accept(testContext(t)); errs <- err }()
	a.Abort(reason)
	mustBe(t, <-errs, reason)
	mustBe(t, <-errs, reason)
	mustBe(t, a.Close(), reason)
	_, _, err := b.RecvControl(testContext(t))
	mustBe(t, err, io.ErrUnexpectedEOF)
	var lane *LaneError
	if !errors.As(err, &lane) || lane.Lane != 0 {
		t.Errorf("error names no lane: %v", err)
	}
}

func TestMessagesBeforeFailureAreDelivered(t *testing.T) {
	a, b := tlsPair(t, Options{Lanes: 1}, Options{})
	must(t, a.SendControl(testContext(t), 3, []byte("committed")))
	eventually(t, "message arrives", func() bool { return len(b.control) == 1 })
	a.Abort(nil)
	<-b.Done()
	_, p, err := b.RecvControl(testContext(t))
	if err != nil || string(p) != "committed" {
		t.Errorf("got %q, %v", p, err)
	}
}

// tardy is a writer that returns late: not before gate, once there is one, is closed.
type tardy struct {
	io.Writer
	gate atomic.Pointer[chan struct{}]
}

func (w *tardy) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if gate := w.gate.Load(); gate != nil {
		<-*gate
	}
	return n, err
}

// A peer may answer and leave before the sender of the question has learnt that it was sent.
func TestAnsweredBeforeSent(t *testing.T) {
	toDst, fromSrc := io.Pipe()
	toSrc, fromDst := io.Pipe()
	out := &tardy{Writer: fromSrc}
	a, b := openPair(t, toSrc, out, toDst, fromDst, Options{}, Options{CloseTimeout: 50 * time.Millisecond})
	gate := make(chan struct{})
	out.gate.Store(&gate)
	ctx, cancel := context.WithCancelCause(testContext(t))
	var g testGroup
	g.run(func() error {
		if _, _, err := b.RecvControl(testContext(t)); err != nil {
			return err
		}
		if err := b.Close(); !errors.Is(err, ErrNoBye) {
			return fmt.Errorf("the end of a peer that is still writing came: %w", err)
		}
		return nil
	})
	g.run(func() error {
		_, _, err := a.RecvControl(testContext(t))
		cancel(err) // as an inbox does
		time.Sleep(20 * time.Millisecond)
		close(gate)
		return nil
	})
	must(t, a.SendControl(ctx, 1, []byte("question")))
	g.wait(t)
}

func TestCloseWithoutPeer(t *testing.T) {
	a, b := pipePair(t, Options{CloseTimeout: 50 * time.Millisecond}, Options{})
	mustBe(t, a.Close(), ErrNoBye)
	mustBe(t, a.Err(), ErrClosed)
	_, _, err := b.RecvControl(testContext(t))
	mustBe(t, err, io.EOF)
	_, err = b.Accept(testContext(t))
	mustBe(t, err, io.EOF)
	mustBe(t, b.SendControl(testContext(t), 1, nil), ErrClosed)
}

func TestLocalLimits(t *testing.T) {
	a, _ := pipePair(t, Options{}, Options{})
	mustBe(t, a.SendControl(testContext(t), 1, make([]byte, MaxControl+1)), ErrLimit)
	_, err := a.OpenStream(testContext(t), 1, make([]byte, MaxMeta+1), StreamOptions{})
	mustBe(t, err, ErrLimit)
	if errors.Is(err, ErrProtocol) {
		t.Error("the caller's own mistake is put down to the peer")
	}
}

func TestControlQueueIsBounded(t *testing.T) {
	a, b := pipePair(t, Options{}, Options{})
	for range MaxControlQueue + 1 {
		if err := a.SendControl(testContext(t), 1, nil); err != nil {
			break
		}
	}
	<-b.Done()
	mustBe(t, b.Err(), ErrLimit)
	mustBe(t, b.Err(), ErrProtocol)
}

func TestLargestControl(t *testing.T) {
	a, b := tlsPair(t, Options{}, Options{})
	must(t, a.SendControl(testContext(t), 1, noise(MaxControl)))
	_, p, err := b.RecvControl(testContext(t))
	if err != nil || !bytes.Equal(p, noise(MaxControl)) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
}

func TestControlOvertakesData(t *testing.T) {
	l := &lane{s: &Session{}, urgent: make(chan outFrame, 1), data: make(chan outFrame, 1)}
	l.data <- outFrame{b: []byte("data")}
	l.urgent <- outFrame{b: []byte("control")}
	f, _ := l.nextOut(&time.Ticker{})
	if string(f.b) != "control" {
		t.Errorf("%s goes first", f.b)
	}
}

func TestDataStaysOffControlLane(t *testing.T) {
	s := &Session{lanes: make([]*lane, 4)}
	seen := map[int]int{}
	for range 9 {
		seen[s.dataLane(0)]++
	}
	if seen[0] != 0 || seen[1] != 3 || seen[2] != 3 || seen[3] != 3 {
		t.Errorf("round robin used lanes %v", seen)
	}
	for want, lane := range map[int]int{1: 1, 3: 3, 4: 1, 8: 2} {
		if got := s.dataLane(want); got != lane {
			t.Errorf("Lane %d maps to %d, want %d", want, got, lane)
		}
	}
}
