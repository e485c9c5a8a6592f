package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A lan is a host with a bridge, on which containers and their peer are, each in a namespace of its own.
type lan struct {
	host, peer string
}

const keepLimit = 64 << 20

func newLAN(t testing.TB) lan {
	t.Helper()
	l := lan{host: newNetns(t), peer: newNetns(t)}
	inside(t, l.host, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br0"
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return err
		}
		return linkUp("br0")
	})
	l.plug(t, l.peer, "peer", peerMAC, peer4+"/24", peer6+"/64")
	return l
}

// container makes one with the container's addresses, of which there may be several.
func (l lan) container(t testing.TB, port string) string {
	t.Helper()
	netns := newNetns(t)
	l.plug(t, netns, port, containerMAC, container4+"/24", container6+"/64")
	return netns
}

// plug connects a namespace's eth0 to the bridge.
func (l lan) plug(t testing.TB, netns, port string, mac net.HardwareAddr, addrs ...string) {
	t.Helper()
	target, err := openNetns(netns)
	check(t, err)
	defer target.Close()
	inside(t, l.host, func() error {
		bridge, err := netlink.LinkByName("br0")
		if err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MasterIndex = port, bridge.Attrs().Index
		veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(target.Fd())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		return linkUp(port)
	})
	inside(t, netns, func() error { return configure("eth0", mac, addrs...) })
	ip, _, err := net.ParseCIDR(addrs[1])
	check(t, err)
	eventually(t, port+" is reachable", func() bool { return ready(t, netns, ip.String()) })
}

// connection returns both ends of a connection from the peer to a container.
func (l lan) connection(t testing.TB, container, ip string) (server, client net.Conn) {
	return bed{container, l.peer}.connection(t, ip)
}

func (l lan) injector(t testing.TB, container string) *Injector {
	t.Helper()
	var i *Injector
	inside(t, l.host, func() (err error) {
		i, err = NewInjector(container)
		return err
	})
	t.Cleanup(i.Close)
	return i
}

func newCapture(t testing.TB, netns string, limit int64) *Capture {
	t.Helper()
	c, err := NewCapture(netns, limit)
	check(t, err)
	t.Cleanup(c.Close)
	return c
}

// A freeze is a container that is not to notice what its peers send.
type freeze struct {
	t       testing.TB
	capture *Capture
	lock    *Lock
	inject  func([]Frame) (int, error)
}

// freeze does as a source does.
func (l lan) freeze(t testing.TB, container string, limit int64) *freeze {
	t.Helper()
	f := &freeze{t: t, capture: newCapture(t, container, limit), inject: l.injector(t, container).Inject}
	var err error
	f.lock, err = PrepareLock(container)
	check(t, err)
	t.Cleanup(func() { f.lock.Close() })
	check(t, f.capture.KeepNew())
	check(t, f.lock.RefuseNew())
	check(t, Drain(container, patience))
	check(t, f.capture.Start())
	check(t, f.lock.Shut())
	return f
}

// thaw does as a source does that keeps its container.
func (f *freeze) thaw() []Frame {
	f.t.Helper()
	check(f.t, f.lock.Open())
	check(f.t, f.capture.Stop())
	kept := f.capture.Kept()
	n, err := f.inject(kept)
	check(f.t, err)
	if n != len(kept) {
		f.t.Errorf("%d of %d frames were injected", n, len(kept))
	}
	return kept
}

// awaitKept returns when a frame is kept of which the condition holds.
func (f *freeze) awaitKept(what string, holds func(Frame) bool) {
	f.t.Helper()
	eventually(f.t, "kept: "+what, func() bool { return slices.ContainsFunc(f.capture.Kept(), holds) })
}

// relay delivers what a capture keeps, as it would go over the wire, until all was delivered.
func relay(ctx context.Context, c *Capture, put func([]Frame) error) error {
	for {
		frames, err := c.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if frames, err = DecodeFrames(EncodeFrames(nil, frames)); err != nil {
			return err
		}
		if err := put(frames); err != nil {
			return err
		}
	}
}

func listenUDP(t testing.TB, netns, addr string) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	inside(t, netns, func() (err error) {
		c, err = net.ListenPacket("udp", addr)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func dialUDP(t testing.TB, netns, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	inside(t, netns, func() (err error) {
		c, err = net.Dial("udp", addr)
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// writeNumbers sends datagrams with numbers.
func writeNumbers(t testing.TB, c net.Conn, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		write(t, c, strconv.Itoa(i))
	}
}

// wantNumbers expects the datagrams in their order.
func wantNumbers(t testing.TB, c net.PacketConn, from, to int) {
	t.Helper()
	check(t, c.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 2048)
	for i := from; i < to; i++ {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
		if got := string(buf[:n]); got != fmt.Sprint(i) {
			t.Fatalf("datagram %q came, want %d", got, i)
		}
	}
}

// acceptOne fails the test where no connection comes.
func acceptOne(t testing.TB, l net.Listener) net.Conn {
	t.Helper()
	check(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(patience)))
	c, err := l.Accept()
	check(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}
