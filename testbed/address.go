package testbed

import (
	"fmt"
	"net"
	"net/netip"

	"migrate/testbed/internal/lan"
)

// Networks are numbered; the number is the second octet of the IPv4 addresses and,
// read as digits, part of the IPv6 prefix.
const (
	firstNetwork = 77
	lastNetwork  = 99
	hostBase     = 11 // last octet of the first host
)

func subnetV4(network int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(network), 0, 0}), 16)
}

func subnetV6(network int) netip.Prefix {
	return netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd%02d::", network)), 64)
}

func hostAddress(network, index int) lan.Address {
	v4 := netip.AddrFrom4([4]byte{10, byte(network), 0, byte(hostBase + index)})
	v6 := netip.MustParseAddr(fmt.Sprintf("fd%02d::%x", network, 0x11+index)) // apart from those of containers, see twinV6
	return lan.Address{
		V4:  netip.PrefixFrom(v4, 16),
		V6:  netip.PrefixFrom(v6, 64),
		MAC: net.HardwareAddr{0x02, 0x4d, 0x54, byte(network), 0, byte(hostBase + index)},
	}
}

// containerRange is the addresses that a host gives to its containers by itself.
func containerRange(network, index int) (first, last netip.Addr) {
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(network), byte(1 + index), n}) }
	return at(10), at(250)
}

// twinV6 is the IPv6 address that goes with a container's IPv4 address: its last two octets are groups there, so that
// 10.77.1.10 has fd77::1:a.
func twinV6(network int, v4 netip.Addr) netip.Addr {
	b := v4.As4()
	return netip.MustParseAddr(fmt.Sprintf("fd%02d::%x:%x", network, b[2], b[3]))
}

// rangePrefix is the /24 of a host's containers.
func rangePrefix(first netip.Addr) string {
	return netip.PrefixFrom(first, 24).Masked().String()
}
