package network

import (
	"net"
	"net/netip"
	"slices"
	"testing"
)

func TestNeighbours(t *testing.T) {
	l := newLAN(t)
	source, dest := l.container(t, "c1"), newNetns(t)
	mustLock(t, Prelock, dest)
	l.plug(t, dest, "c2", net.HardwareAddr{2, 0, 0, 0, 0, 3}, "10.77.0.3/24", "fd77::3/64")
	l.connection(t, source, container4)
	l.connection(t, source, container6)
	known, err := Neighbours(source)
	check(t, err)
	for _, ip := range []string{peer4, peer6} {
		want := Neighbour{Interface: "eth0", IP: netip.MustParseAddr(ip), MAC: peerMAC.String()}
		if !slices.Contains(known, want) {
			t.Errorf("%+v is not in %+v", want, known)
		}
	}
	gateway := Neighbour{Interface: "eth0", IP: netip.MustParseAddr("10.77.0.254"), MAC: "02:00:00:00:00:fe"}
	inside(t, l.host, func() error {
		if err := configure("br0", net.HardwareAddr{2, 0, 0, 0, 0, 8}, "10.77.0.254/24"); err != nil {
			return err
		}
		return SetNeighbours(dest, append(known, gateway))
	})
	for _, ip := range []string{peer4, peer6} {
		if got := neighbour(t, dest, ip); got != peerMAC.String() {
			t.Errorf("%s is at %q, want %s", ip, got, peerMAC)
		}
	}
	if got := neighbour(t, dest, "10.77.0.254"); got != "" {
		t.Errorf("the host's own address is at %q", got)
	}
	moved := known[0]
	moved.MAC = "02:00:00:00:00:99"
	inside(t, l.host, func() error { return SetNeighbours(dest, []Neighbour{moved}) })
	if got := neighbour(t, dest, moved.IP.String()); got != peerMAC.String() {
		t.Errorf("an entry was replaced by %s", got)
	}
}

func TestSetNeighboursRefusesNonsense(t *testing.T) {
	b := newBed(t)
	good := Neighbour{Interface: "eth0", IP: netip.MustParseAddr("10.77.0.9"), MAC: "02:00:00:00:00:09"}
	list := []Neighbour{good, good, good, good, good, good}
	list[0].Interface = "eth7"
	list[1].MAC = "no"
	list[2].MAC = "01:00:5e:00:00:01"
	list[3].IP = netip.Addr{}
	list[4].IP = netip.MustParseAddr("224.0.0.1")
	for _, n := range list[:5] {
		if SetNeighbours(b.container, []Neighbour{n}) == nil {
			t.Errorf("%+v was taken", n)
		}
	}
	if SetNeighbours(b.container, list) == nil {
		t.Error("no error")
	}
	if got := neighbour(t, b.container, "10.77.0.9"); got != good.MAC {
		t.Errorf("the good one is at %q", got)
	}
}
