package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// both runs a test for both versions of IP.
func both(t *testing.T, test func(t *testing.T, ip string)) {
	for name, ip := range map[string]string{"IPv4": container4, "IPv6": container6} {
		t.Run(name, func(t *testing.T) { test(t, ip) })
	}
}

// carries says whether a frame has the text in it.
func carries(text string) func(Frame) bool {
	return func(f Frame) bool { return bytes.Contains(f.Data, []byte(text)) }
}

// TestSegmentsAreNotSentAgain silences the client once it has sent, so that what the server reads was injected.
func TestSegmentsAreNotSentAgain(t *testing.T) {
	both(t, func(t *testing.T, ip string) {
		l := newLAN(t)
		container := l.container(t, "c1")
		server, client := l.connection(t, container, ip)
		f := l.freeze(t, container, keepLimit)
		write(t, client, "sent once")
		f.awaitKept("the segment", carries("sent once"))
		silent := mustLock(t, NewLock, l.peer)
		kept := f.thaw()
		wantText(t, server, "sent once")
		if n := count(kept, func(h vnetHeader) bool { return h.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 }); n == 0 {
			t.Error("no frame came with a checksum to be completed, which this test is also about")
		}
		check(t, silent.Open())
		write(t, server, "answer")
		wantText(t, client, "answer")
	})
}

func count(frames []Frame, holds func(vnetHeader) bool) (n int) {
	for _, f := range frames {
		if holds(parseVNet(f.VNet)) {
			n++
		}
	}
	return n
}

// TestBulkIsNotSentAgain is about frames of many segments.
func TestBulkIsNotSentAgain(t *testing.T) {
	both(t, func(t *testing.T, ip string) {
		l := newLAN(t)
		container := l.container(t, "c1")
		server, client := l.connection(t, container, ip)
		const before = 4 << 20 // opens the congestion window
		want := make([]byte, before+4<<20)
		_, _ = rand.Read(want)
		got := make([]byte, len(want))

		var g errgroup.Group
		g.Go(func() error { _, err := client.Write(want[:before]); return err })
		readFull(t, server, got[:before])
		check(t, g.Wait())
		f := l.freeze(t, container, keepLimit)
		g.Go(func() error { _, err := client.Write(want[before:]); return err })
		f.awaitKept("a frame of several segments", func(f Frame) bool { return parseVNet(f.VNet).gsoType != 0 })
		silent := mustLock(t, NewLock, l.peer)
		once := payload(f.thaw())
		if once < 10_000 {
			t.Errorf("only %d bytes were kept", once)
		}
		readFull(t, server, got[before:before+once])
		check(t, silent.Open())
		readFull(t, server, got[before+once:])
		check(t, g.Wait())
		if !bytes.Equal(got, want) {
			t.Error("other bytes came than were sent")
		}
	})
}

// payload is how many bytes of one TCP connection the frames carry, each counted once.
func payload(frames []Frame) int {
	var least, most uint32
	seen := false
	for _, f := range frames {
		seq, n, ok := segment(f.Data)
		if !ok || n == 0 {
			continue
		}
		if !seen {
			least, most, seen = seq, seq, true
		}
		if int32(seq-least) < 0 {
			least = seq
		}
		if end := seq + uint32(n); int32(end-most) > 0 {
			most = end
		}
	}
	return int(most - least)
}

func segment(b []byte) (seq uint32, n int, ok bool) {
	var at, end int
	switch binary.BigEndian.Uint16(b[etherTypeAt:]) {
	case unix.ETH_P_IP:
		at, end = etherLen+int(b[etherLen]&15)*4, etherLen+int(binary.BigEndian.Uint16(b[etherLen+2:]))
		ok = b[ip4ProtocolAt] == unix.IPPROTO_TCP
	case unix.ETH_P_IPV6:
		at, end = etherLen+ip6Len, etherLen+ip6Len+int(binary.BigEndian.Uint16(b[etherLen+4:]))
		ok = b[ip6NextAt] == unix.IPPROTO_TCP
	}
	if !ok {
		return 0, 0, false
	}
	return binary.BigEndian.Uint32(b[at+4:]), end - at - int(b[at+12]>>4)*4, true
}

func readFull(t testing.TB, c net.Conn, b []byte) {
	t.Helper()
	check(t, c.SetReadDeadline(time.Now().Add(patience)))
	if n, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("read %d of %d bytes: %v", n, len(b), err)
	}
}

func TestDatagramsAreKeptInOrder(t *testing.T) {
	both(t, func(t *testing.T, ip string) {
		l := newLAN(t)
		container := l.container(t, "c1")
		server := listenUDP(t, container, net.JoinHostPort(ip, "0"))
		client := dialUDP(t, l.peer, server.LocalAddr().String())
		writeNumbers(t, client, 0, 1)
		wantNumbers(t, server, 0, 1)
		f := l.freeze(t, container, keepLimit)
		// fewer than a socket's buffer takes
		writeNumbers(t, client, 1, 150)
		f.awaitKept("the last datagram", carries("149"))
		f.thaw()
		writeNumbers(t, client, 150, 200)
		wantNumbers(t, server, 1, 200)
	})
}

// TestNewConnectionIsNotOpenedAgain lets the peer's first segment pass the host once.
func TestNewConnectionIsNotOpenedAgain(t *testing.T) {
	both(t, func(t *testing.T, ip string) {
		l := newLAN(t)
		container := l.container(t, "c1")
		l.connection(t, container, ip) // the peer need not ask for the container's MAC then
		listener := listen(t, container, net.JoinHostPort(ip, "0"))
		f := l.freeze(t, container, keepLimit)
		var client net.Conn
		var g errgroup.Group
		g.Go(func() (err error) { client, err = dial(l.peer, listener.Addr().String(), patience); return err })
		f.awaitKept("the first segment", isOpening)
		once, err := PrepareLock(l.host)
		check(t, err)
		defer once.Close()
		check(t, once.RefuseNew())
		f.thaw()
		server := acceptOne(t, listener)
		check(t, g.Wait())
		defer client.Close()
		write(t, client, "opened")
		wantText(t, server, "opened")
	})
}

// isOpening is for a capture that has KeepNew only, or no other TCP.
func isOpening(f Frame) bool {
	_, n, ok := segment(f.Data)
	return ok && n == 0
}

// TestMove has a second container take the place of the first, with the same addresses.
func TestMove(t *testing.T) {
	both(t, func(t *testing.T, ip string) {
		l := newLAN(t)
		source := l.container(t, "c1")
		// a peer that the switch knows, and that knows the container, sends to where it was until it hears otherwise
		old := listenUDP(t, source, net.JoinHostPort(ip, "7"))
		client := dialUDP(t, l.peer, old.LocalAddr().String())
		writeNumbers(t, client, 0, 1)
		wantNumbers(t, old, 0, 1)
		eventually(t, "the source knows the peer", func() bool {
			known, err := Neighbours(source)
			return err == nil && len(known) > 0
		})

		dest := newNetns(t)
		lock := mustLock(t, Prelock, dest)
		l.plug(t, dest, "c2", containerMAC, container4+"/24", container6+"/64")
		known, err := Neighbours(source)
		check(t, err)
		inside(t, l.host, func() error { return SetNeighbours(dest, known) })
		announcer, err := NewAnnouncer(dest)
		check(t, err)
		defer announcer.Close()
		moved := listenUDP(t, dest, net.JoinHostPort(ip, "7"))
		listener := listen(t, dest, net.JoinHostPort(ip, "8"))

		f := l.freeze(t, source, keepLimit)
		gate := NewGate(l.injector(t, dest).Inject, keepLimit)
		var g errgroup.Group
		g.Go(func() error { return relay(context.Background(), f.capture, gate.Put) })
		writeNumbers(t, client, 1, 100)
		var opened net.Conn
		g.Go(func() (err error) { opened, err = dial(l.peer, net.JoinHostPort(ip, "8"), patience); return err })
		f.awaitKept("the last datagram", carries("99"))
		f.awaitKept("the first segment of a connection", isOpening)

		check(t, lock.Open())
		check(t, announcer.Send())
		if _, err := gate.Open(); err != nil {
			t.Error(err)
		}
		wantNumbers(t, moved, 1, 100)
		acceptOne(t, listener)
		check(t, f.capture.Stop())
		check(t, g.Wait())
		defer opened.Close()
		write(t, client, "100")
		wantNumbers(t, moved, 100, 101)
	})
}

func TestKeepNoMoreThanTheLimit(t *testing.T) {
	l := newLAN(t)
	container := l.container(t, "c1")
	server := listenUDP(t, container, container4+":0")
	client := dialUDP(t, l.peer, server.LocalAddr().String())
	writeNumbers(t, client, 0, 1)
	wantNumbers(t, server, 0, 1)
	const sent, room = 50, 20
	// a number's datagram is shorter than 100 bytes with all headers, and costs
	f := l.freeze(t, container, room*(100+frameCost))
	writeNumbers(t, client, 10, 10+sent)
	eventually(t, "all have come", func() bool {
		s := f.capture.Stats()
		return s.Kept+s.Dropped >= sent
	})
	stats := f.capture.Stats()
	if stats.Kept < room || stats.Dropped == 0 || stats.DroppedBytes == 0 || stats.KeptBytes > room*(100+frameCost) {
		t.Errorf("of %d frames: %+v", sent, stats)
	}
	f.thaw()
	wantNumbers(t, server, 10, 10+room)
}

// TestForget makes room by delivering.
func TestForget(t *testing.T) {
	b := newBed(t)
	quieten(t, b.peer)
	c := newCapture(t, b.container, 2*(15+frameCost)) // two probes
	check(t, c.Start())
	outer := newTap(t, b.peer)
	next := func(id byte) {
		t.Helper()
		frames, err := c.Next(context.Background())
		check(t, err)
		if len(frames) != 1 || !isProbe(id)(frames[0].Data) {
			t.Fatalf("got %v, want probe %d", frames, id)
		}
	}
	check(t, outer.send(probe(peerMAC, 1)))
	next(1)
	if kept := c.Kept(); len(kept) != 1 {
		t.Errorf("%d frames are kept after delivery, want 1", len(kept))
	}
	c.Forget()
	for id := byte(2); id < 10; id++ {
		check(t, outer.send(probe(peerMAC, id)))
		next(id)
	}
	if kept := c.Kept(); len(kept) != 0 {
		t.Errorf("%d frames are kept, though they were to be forgotten", len(kept))
	}
}
