package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestInsideOf(t *testing.T) {
	end := func(s string) (net.IP, uint16) {
		a := netip.MustParseAddrPort(s)
		return a.Addr().AsSlice(), a.Port()
	}
	flow := func(from, to, answerFrom, answerTo string) *netlink.ConntrackFlow {
		f := &netlink.ConntrackFlow{Forward: netlink.IPTuple{Protocol: unix.IPPROTO_TCP}}
		f.Forward.SrcIP, f.Forward.SrcPort = end(from)
		f.Forward.DstIP, f.Forward.DstPort = end(to)
		f.Reverse.SrcIP, f.Reverse.SrcPort = end(answerFrom)
		f.Reverse.DstIP, f.Reverse.DstPort = end(answerTo)
		return f
	}
	for _, test := range []struct {
		what          string
		flow          *netlink.ConntrackFlow
		local, remote string
	}{
		{"as it is", flow("10.0.0.9:4000", "172.31.0.2:80", "172.31.0.2:80", "10.0.0.9:4000"), "", ""},
		{"port mapping", flow("10.0.0.9:4000", "10.0.0.1:8080", "172.31.0.2:80", "10.0.0.9:4000"), "172.31.0.2:80", "10.0.0.9:4000"},
		{"masqueraded", flow("172.31.0.2:4000", "10.0.0.9:80", "10.0.0.9:80", "10.0.0.1:4000"), "172.31.0.2:4000", "10.0.0.9:80"},
		{"IPv6", flow("[fd00::9]:4000", "[fd00::1]:8080", "[fd31::2]:80", "[fd00::9]:4000"), "[fd31::2]:80", "[fd00::9]:4000"},
	} {
		got := insideOf(test.flow)
		var want [2]netip.AddrPort
		if test.local != "" {
			want = [2]netip.AddrPort{netip.MustParseAddrPort(test.local), netip.MustParseAddrPort(test.remote)}
		}
		if got != want {
			t.Errorf("%s: %v, want %v", test.what, got, want)
		}
	}
}
