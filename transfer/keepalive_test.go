package transfer

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// valve is a TCP proxy that forwards until it is shut; then it swallows.
type valve struct {
	net.Listener
	shut atomic.Bool
}

func newValve(t *testing.T, to string) *valve {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	v := &valve{Listener: ln}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				return
			}
			t.Cleanup(func() { in.Close(); out.Close() })
			go v.forward(in, out)
			go v.forward(out, in)
		}
	}()
	return v
}

func (v *valve) forward(dst, src net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if v.shut.Load() {
			select {} // neither reads nor closes: packets vanish
		}
		if err != nil {
			dst.Close()
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestSilentPeer(t *testing.T) {
	o := Options{Lanes: 2, DeadAfter: 300 * time.Millisecond}
	s := newSite(t, o)
	v := newValve(t, s.addr())
	id := newTestIdentity(t)
	must(t, s.auth.Authorize(id.Fingerprint(), ""))
	a, err := Dial(testContext(t), v.Addr().String(), id, s.pin(), o)
	must(t, err)
	b, err := s.listen.Accept(testContext(t))
	must(t, err)
	ended(t, a, b)

	time.Sleep(2 * o.DeadAfter) // idle, yet alive
	must(t, errors.Join(a.Err(), b.Err()))
	w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{Codec: None})
	must(t, err)
	wrote := make(chan error, 1)
	go func() {
		var err error
		for err == nil {
			_, err = w.Write(make([]byte, 1<<20))
		}
		wrote <- err
	}()
	go func() {
		if r, err := b.Accept(testContext(t)); err == nil {
			_, _ = io.Copy(io.Discard, r)
		}
	}()
	v.shut.Store(true)
	for _, s := range []*Session{a, b} {
		select {
		case <-s.Done():
			mustBe(t, s.Err(), ErrDead)
		case <-time.After(patience):
			t.Fatal("silence is not noticed")
		}
	}
	mustBe(t, <-wrote, ErrDead)
	var dead *DeadError
	if !errors.As(a.Err(), &dead) || dead.Silent < o.DeadAfter {
		t.Errorf("error tells nothing of the silence: %v", a.Err())
	}
}

// TestBackPressureIsNotDeath has a consumer that takes longer than DeadAfter.
func TestBackPressureIsNotDeath(t *testing.T) {
	o := Options{Lanes: 1, DeadAfter: 300 * time.Millisecond}
	for name, open := range map[string]func() (*Session, *Session){
		"tls":  func() (*Session, *Session) { return tlsPair(t, o, o) },
		"pipe": func() (*Session, *Session) { return pipePair(t, o, o) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := open()
			content := noise(32 << 20)
			var g testGroup
			g.run(func() error {
				w, err := a.OpenStream(testContext(t), 1, nil, StreamOptions{Codec: None})
				if err != nil {
					return err
				}
				if _, err := w.Write(content); err != nil {
					return err
				}
				return w.Close()
			})
			r, err := b.Accept(testContext(t))
			must(t, err)
			time.Sleep(3 * o.DeadAfter)
			n, err := io.Copy(io.Discard, r)
			if err != nil || n != int64(len(content)) {
				t.Errorf("%d bytes, %v", n, err)
			}
			g.wait(t)
			closeBoth(t, a, b)
		})
	}
}

func TestPingEvery(t *testing.T) {
	for _, c := range []struct{ keepalive, peer, want time.Duration }{
		{time.Second, 10 * time.Second, time.Second},
		{time.Second, 2 * time.Second, 500 * time.Millisecond},
		{time.Second, 0, minPing},
	} {
		if got := pingEvery(c.keepalive, c.peer); got != c.want {
			t.Errorf("pingEvery(%v, %v) = %v, want %v", c.keepalive, c.peer, got, c.want)
		}
	}
}

func TestRoundTripTimeIsMeasured(t *testing.T) {
	a, _ := pipePair(t, Options{Keepalive: 10 * time.Millisecond}, Options{})
	eventually(t, "RTT", func() bool { return a.Stats().Lanes[0].RTT > 0 })
}
