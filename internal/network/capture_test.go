package network

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sendAll sends frames from the peer, and at last a probe, and returns what was kept before that.
func sendAll(t *testing.T, c *Capture, outer tap, frames ...[]byte) [][]byte {
	t.Helper()
	const last = 255
	for _, f := range append(frames, probe(peerMAC, last)) {
		check(t, outer.send(f))
	}
	var got [][]byte
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		batch, err := c.Next(ctx)
		check(t, err)
		for _, f := range batch {
			if f.Interface != "eth0" {
				t.Errorf("a frame came in by %q", f.Interface)
			}
			if isProbe(last)(f.Data) {
				return got
			}
			got = append(got, f.Data)
		}
	}
}

func TestCaptureKeepsWhatIsForTheContainer(t *testing.T) {
	b := newBed(t)
	quieten(t, b.peer)
	c, outer := newCapture(t, b.container, keepLimit), newTap(t, b.peer)
	check(t, outer.send(probe(peerMAC, 1))) // before Start
	check(t, c.Start())
	lo := dialUDP(t, b.container, "127.0.0.1:9")
	write(t, lo, "loopback")
	inner := newTap(t, b.container)
	check(t, inner.send(probe(containerMAC, 2)))

	other := append(ethernet(net.HardwareAddr{2, 0, 0, 0, 0, 9}, peerMAC, 0x88b5), 3)
	tagged := append(ethernet(broadcastMAC, peerMAC, unix.ETH_P_8021Q), 0, 7, 0x88, 0xb5, 4, 4)
	unicast := append(ethernet(containerMAC, peerMAC, 0x88b5), 5)
	multicast := append(ethernet(allNodesMAC, peerMAC, 0x88b5), 6)
	got := sendAll(t, c, outer, other, tagged, unicast, multicast)
	if len(got) != 2 || !bytes.Equal(got[0], unicast) || !bytes.Equal(got[1], multicast) {
		t.Errorf("kept %x, want %x and %x", got, unicast, multicast)
	}
}

// quieten keeps a namespace from sending anything but a tap's frames.
func quieten(t *testing.T, netns string) {
	t.Helper()
	lock, err := newLock(netns, protocolChains())
	check(t, err)
	t.Cleanup(func() { check(t, lock.Remove()) })
}

func TestKeepNewKeepsOpeningSegments(t *testing.T) {
	b := newBed(t)
	quieten(t, b.peer)
	c, outer := newCapture(t, b.container, keepLimit), newTap(t, b.peer)
	check(t, c.KeepNew())
	want := [][]byte{tcp4(tcpSYN, 0), tcp4(tcpSYN|0xc0, 12), tcp6(tcpSYN)}
	fragment := tcp4(tcpSYN, 0)
	fragment[ip4FragmentAt+1] = 1
	for _, f := range append(want, tcp4(tcpSYN|tcpACK, 0), tcp4(tcpACK, 0), tcp4(1, 4), tcp6(tcpACK), tcp6(tcpSYN|tcpACK), fragment,
		udpLike(tcp4(tcpSYN, 0), ip4ProtocolAt), udpLike(tcp6(tcpSYN), ip6NextAt), tcp4(tcpSYN, 0)[:40], probe(peerMAC, 1)) {
		check(t, outer.send(f))
	}
	check(t, c.Start())
	got := sendAll(t, c, outer)
	if len(got) != len(want) {
		t.Fatalf("%d frames were kept, want %d: %x", len(got), len(want), got)
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("frame %d is %x, want %x", i, got[i], want[i])
		}
	}
}

// tcp4 is a frame with a TCP segment, its IPv4 header having some bytes of options.
func tcp4(flags byte, options int) []byte {
	b := append(ethernet(containerMAC, peerMAC, unix.ETH_P_IP), make([]byte, 20+options+20)...)
	b[etherLen] = 4<<4 | byte(20+options)/4
	b[ip4ProtocolAt] = unix.IPPROTO_TCP
	b[etherLen+20+options+tcpFlagsAt] = flags
	return b
}

func tcp6(flags byte) []byte {
	b := append(ethernet(containerMAC, peerMAC, unix.ETH_P_IPV6), make([]byte, ip6Len+20)...)
	b[etherLen] = 6 << 4
	b[ip6NextAt] = unix.IPPROTO_TCP
	b[etherLen+ip6Len+tcpFlagsAt] = flags
	return b
}

func udpLike(b []byte, at int) []byte {
	b[at] = unix.IPPROTO_UDP
	return b
}

func TestStopDeliversWhatHasCome(t *testing.T) {
	b := newBed(t)
	quieten(t, b.peer)
	c, outer := newCapture(t, b.container, keepLimit), newTap(t, b.peer)
	check(t, c.Start())
	const sent = 100
	for id := range byte(sent) {
		check(t, outer.send(probe(peerMAC, id)))
	}
	check(t, c.Stop())
	check(t, outer.send(probe(peerMAC, sent)))
	if got := len(c.Kept()); got != sent {
		t.Errorf("%d frames are kept after Stop, want %d", got, sent)
	}
	for id := 0; id < sent; {
		frames, err := c.Next(context.Background())
		check(t, err)
		for _, f := range frames {
			if !isProbe(byte(id))(f.Data) {
				t.Fatalf("frame %x, want probe %d", f.Data, id)
			}
			id++
		}
	}
	if frames, err := c.Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("after all was delivered: %v, %v", frames, err)
	}
	check(t, c.Stop()) // again
	c.Close()
	c.Close()
	if _, err := c.Next(context.Background()); !errors.Is(err, io.EOF) {
		t.Errorf("after Close: %v", err)
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	c := newCapture(t, newBed(t).container, keepLimit)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := c.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestNextEndsWithClose(t *testing.T) {
	c := newCapture(t, newBed(t).container, keepLimit)
	done := make(chan error)
	go func() { _, err := c.Next(context.Background()); done <- err }()
	c.Close()
	if err := <-done; !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestNextBoundsItsBatches(t *testing.T) {
	c := &Capture{news: make(chan struct{}, 1), ended: make(chan struct{})}
	for range 3 * batchFrames {
		c.frames = append(c.frames, Frame{Interface: "eth0", Data: make([]byte, etherLen)})
	}
	for range 20 {
		c.frames = append(c.frames, Frame{Interface: "123456789012345", Data: make([]byte, MaxFrame)})
	}
	total := len(c.frames)
	close(c.ended)
	for n := 0; n < total; {
		frames, err := c.Next(context.Background())
		check(t, err)
		if encoded := EncodeFrames(nil, frames); len(encoded) > MaxEncoded {
			t.Fatalf("a batch is %d bytes long", len(encoded))
		}
		n += len(frames)
	}
}

func TestCaptureOfMissingNamespace(t *testing.T) {
	if _, err := NewCapture("/nowhere", 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
}
