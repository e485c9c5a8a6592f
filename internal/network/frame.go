package network

import (
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	macLen = 6

	icmpNeighbourAdvertisement = 136
	icmpOverride               = 1 << 29 // RFC 4861, 4.4: replaces what the peer has cached
	icmpTargetLinkAddress      = 2
)

var (
	broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	allNodesMAC  = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	allNodes     = netip.MustParseAddr("ff02::1")
)

// announcements are the frames that make known where an interface is: two of ARP for each IPv4 address, since some
// peers heed requests only and some replies only, and a neighbour advertisement for each global IPv6 address. Without
// any address there is one that at least switches learn from.
func announcements(itf Interface) [][]byte {
	if !itf.Up || itf.noARP || len(itf.MAC) != macLen {
		return nil
	}
	var frames [][]byte
	for _, ip := range itf.IPs {
		switch addr := ip.Addr(); {
		case addr.Is4():
			frames = append(frames,
				arpFrame(unix.ETH_P_ARP, arpRequest, itf.MAC, addr, net.HardwareAddr{0, 0, 0, 0, 0, 0}),
				arpFrame(unix.ETH_P_ARP, arpReply, itf.MAC, addr, broadcastMAC))
		case addr.IsGlobalUnicast():
			frames = append(frames, advertisement(itf.MAC, addr))
		}
	}
	if frames == nil {
		frames = append(frames, arpFrame(unix.ETH_P_RARP, rarpRequest, itf.MAC, netip.IPv4Unspecified(), itf.MAC))
	}
	return frames
}

const (
	arpRequest  = 1
	arpReply    = 2
	rarpRequest = 3
)

// arpFrame broadcasts an ARP or RARP packet in which sender and target are the same address.
func arpFrame(protocol, operation uint16, mac net.HardwareAddr, addr netip.Addr, target net.HardwareAddr) []byte {
	ip := addr.As4()
	b := ethernet(broadcastMAC, mac, protocol)
	b = binary.BigEndian.AppendUint16(b, unix.ARPHRD_ETHER)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_IP)
	b = append(b, macLen, byte(len(ip)))
	b = binary.BigEndian.AppendUint16(b, operation)
	b = append(b, mac...)
	b = append(b, ip[:]...)
	b = append(b, target...)
	return append(b, ip[:]...)
}

// advertisement is an unsolicited neighbour advertisement to all nodes.
func advertisement(mac net.HardwareAddr, addr netip.Addr) []byte {
	src, dst := addr.As16(), allNodes.As16()
	icmp := []byte{icmpNeighbourAdvertisement, 0, 0, 0}
	icmp = binary.BigEndian.AppendUint32(icmp, icmpOverride)
	icmp = append(icmp, src[:]...)
	icmp = append(icmp, icmpTargetLinkAddress, 1) // length in units of 8 bytes
	icmp = append(icmp, mac...)
	binary.BigEndian.PutUint16(icmp[2:], icmpChecksum(src, dst, icmp))

	b := ethernet(allNodesMAC, mac, unix.ETH_P_IPV6)
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(icmp)))
	b = append(b, unix.IPPROTO_ICMPV6, 255) // neighbours ignore any other hop limit
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	return append(b, icmp...)
}

func ethernet(dst, src net.HardwareAddr, protocol uint16) []byte {
	b := make([]byte, 0, 128)
	b = append(b, dst...)
	b = append(b, src...)
	return binary.BigEndian.AppendUint16(b, protocol)
}

// icmpChecksum sums up an ICMPv6 message of even length, its own checksum field being zero, with the pseudo header of
// RFC 8200, 8.1.
func icmpChecksum(src, dst [16]byte, icmp []byte) uint16 {
	sum := uint32(len(icmp)) + unix.IPPROTO_ICMPV6
	for _, part := range [][]byte{src[:], dst[:], icmp} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
