package network

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var testPort = port{peer: 7, mac: containerMAC, mtu: 1500}

// frameTo is a frame of a length, headers included, with a header.
func frameTo(mac net.HardwareAddr, length int, h vnetHeader) Frame {
	b := make([]byte, length)
	copy(b, ethernet(mac, peerMAC, unix.ETH_P_IP))
	return Frame{Interface: "eth0", VNet: h.bytes(), Data: b}
}

func TestCheckOfFrames(t *testing.T) {
	const csum, tcp4, ecn = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, unix.VIRTIO_NET_HDR_GSO_TCPV4, unix.VIRTIO_NET_HDR_GSO_ECN
	segments := vnetHeader{flags: csum, gsoType: tcp4, headerLen: 66, gsoSize: 1448, csumStart: 34, csumOffset: 16}
	with := func(change func(*vnetHeader)) vnetHeader {
		h := segments
		change(&h)
		return h
	}
	for name, c := range map[string]struct {
		frame Frame
		good  bool
	}{
		"plain":                  {frameTo(containerMAC, 100, vnetHeader{}), true},
		"broadcast":              {frameTo(broadcastMAC, 60, vnetHeader{}), true},
		"multicast":              {frameTo(allNodesMAC, 60, vnetHeader{}), true},
		"for another":            {frameTo(peerMAC, 100, vnetHeader{}), false},
		"full":                   {frameTo(containerMAC, 1514, vnetHeader{}), true},
		"full with tag":          {frameTo(containerMAC, 1518, vnetHeader{}), true},
		"longer than the MTU":    {frameTo(containerMAC, 1519, vnetHeader{}), false},
		"shorter than a header":  {Frame{Interface: "eth0", Data: make([]byte, 13)}, false},
		"without data":           {Frame{Interface: "eth0"}, false},
		"verified":               {frameTo(containerMAC, 100, vnetHeader{flags: unix.VIRTIO_NET_HDR_F_DATA_VALID}), true},
		"segments":               {frameTo(containerMAC, 9000, segments), true},
		"longest":                {frameTo(containerMAC, MaxFrame, segments), true},
		"longer":                 {frameTo(containerMAC, MaxFrame+1, segments), false},
		"segments, ECN":          {frameTo(containerMAC, 9000, with(func(h *vnetHeader) { h.gsoType |= ecn })), true},
		"segments, unknown":      {frameTo(containerMAC, 9000, with(func(h *vnetHeader) { h.gsoType = 2 })), false},
		"segments, tunnel":       {frameTo(containerMAC, 9000, with(func(h *vnetHeader) { h.gsoType |= 0x20 })), false},
		"segments of no size":    {frameTo(containerMAC, 9000, with(func(h *vnetHeader) { h.gsoSize = 0 })), false},
		"headers beyond the end": {frameTo(containerMAC, 64, segments), false},
		"checksum at the end":    {frameTo(containerMAC, 52, vnetHeader{flags: csum, csumStart: 34, csumOffset: 16}), true},
		"checksum beyond":        {frameTo(containerMAC, 51, vnetHeader{flags: csum, csumStart: 34, csumOffset: 16}), false},
		"checksum far beyond":    {frameTo(containerMAC, 100, vnetHeader{flags: csum, csumStart: 0xffff, csumOffset: 0xffff}), false},
		"checksum of the MACs":   {frameTo(containerMAC, 100, vnetHeader{flags: csum, csumStart: 13}), false},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := testPort.check(c.frame)
			if (err == nil) != c.good {
				t.Fatalf("got %v", err)
			}
			if err == nil && h.flags&^csum != 0 {
				t.Errorf("flags %#x are left", h.flags)
			}
		})
	}
}

func TestInjectGoesOnAfterBadFrames(t *testing.T) {
	b := newBed(t)
	quieten(t, b.peer)
	inner := newTap(t, b.container)
	i := b.injector(t)
	good, foreign, elsewhere := Frame{"eth0", [VNetLen]byte{}, probe(peerMAC, 9)}, frameTo(peerMAC, 60, vnetHeader{}), Frame{"eth7", [VNetLen]byte{}, probe(peerMAC, 8)}
	n, err := i.Inject([]Frame{foreign, elsewhere, good})
	if n != 1 || err == nil || !strings.Contains(err.Error(), "2 of 3") || !strings.Contains(err.Error(), peerMAC.String()) {
		t.Errorf("%d were injected, %v", n, err)
	}
	if got := inner.read(t, isProbe(9)); len(got) != 1 {
		t.Errorf("%d frames came, want 1", len(got))
	}
	i.Close()
	i.Close()
	if n, err := i.Inject([]Frame{good}); n != 0 || !errors.Is(err, unix.EBADF) {
		t.Errorf("after Close: %d, %v", n, err)
	}
}

// injector is for a container whose peer is at its veth pair's other end.
func (b bed) injector(t testing.TB) *Injector {
	t.Helper()
	return lan{host: b.peer}.injector(t, b.container)
}

func TestInjectorNeedsTheOtherEnd(t *testing.T) {
	b, like := newBed(t), newBed(t) // interfaces have the same indices in both
	none := newNetns(t)
	for name, host := range map[string]string{"pair leads elsewhere": none, "another's with the same index": like.peer} {
		container, err := os.Open(b.container)
		check(t, err)
		defer container.Close()
		inside(t, host, func() error {
			// the host may well know the namespace
			if err := netlink.SetNetNsIdByFd(int(container.Fd()), 77); err != nil {
				return err
			}
			_, err := NewInjector(b.container)
			var missing *NoPortError
			if !errors.As(err, &missing) || !slices.Equal(missing.Interfaces, []string{"eth0"}) {
				t.Errorf("%s: %v, want a NoPortError", name, err)
			}
			return nil
		})
	}
	i, err := NewInjector(none)
	check(t, err)
	i.Close()
	if _, err := NewInjector("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing namespace: %v", err)
	}
}

func TestInjectorWithoutSomeInterface(t *testing.T) {
	b := newBed(t)
	inside(t, b.container, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "other"
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
	})
	if got := b.injector(t).absent; !slices.Equal(got, []string{"other"}) {
		t.Errorf("absent are %q", got)
	}
}

func TestGate(t *testing.T) {
	var got []string
	inject := func(frames []Frame) (int, error) {
		for _, f := range frames {
			got = append(got, string(f.Data))
		}
		return len(frames), nil
	}
	frames := func(list ...string) (f []Frame) {
		for _, s := range list {
			f = append(f, Frame{Data: []byte(s)})
		}
		return f
	}
	g := NewGate(inject, 3*(1+frameCost))
	check(t, g.Put(frames("a", "b")))
	if err := g.Put(frames("c", "d", "e")); !errors.Is(err, ErrGateFull) || !strings.Contains(err.Error(), "2") {
		t.Errorf("too many: %v", err)
	}
	if got != nil {
		t.Errorf("%q went through the shut gate", got)
	}
	n, err := g.Open()
	check(t, err)
	check(t, g.Put(frames("f", "g", "h", "i")))
	if want := []string{"a", "b", "c", "f", "g", "h", "i"}; n != 3 || !slices.Equal(got, want) {
		t.Errorf("%d on opening, in all %q, want %q", n, got, want)
	}
}
