package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Translated lists those of a container's connections whose other end knows it by another address, the host's: they came in by a
// port mapping, or went out masqueraded. The host of the calling thread is asked, and a kernel that does not track connections
// has none.
func Translated(conns []Conn) ([]Conn, error) {
	known := map[[2]netip.AddrPort]Conn{}
	for _, c := range conns {
		known[[2]netip.AddrPort{c.Local, c.Remote}] = c
	}
	var found []Conn
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			return nil, fmt.Errorf("list the connections that the host translates: %w", err)
		}
		for _, f := range flows {
			if c, ok := known[insideOf(f)]; ok {
				found = append(found, c)
			}
		}
	}
	return found, nil
}

// insideOf is how the container sees a connection that is translated: its own end, then the other. For others it is zero.
func insideOf(f *netlink.ConntrackFlow) (ends [2]netip.AddrPort) {
	if f.Forward.Protocol != unix.IPPROTO_TCP {
		return ends
	}
	from, to := addrPort(f.Forward.SrcIP, f.Forward.SrcPort), addrPort(f.Forward.DstIP, f.Forward.DstPort)
	answerFrom, answerTo := addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort), addrPort(f.Reverse.DstIP, f.Reverse.DstPort)
	switch {
	case answerFrom != to: // it was sent to another end than it was meant for
		return [2]netip.AddrPort{answerFrom, answerTo}
	case answerTo != from:
		return [2]netip.AddrPort{from, to}
	}
	return ends
}
