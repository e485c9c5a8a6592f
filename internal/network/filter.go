package network

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What classic BPF can load of a frame beside its bytes, by negative offsets (include/uapi/linux/filter.h).
const (
	ancillary    = 1<<32 - 0x1000 // SKF_AD_OFF
	loadKind     = ancillary + 4  // SKF_AD_PKTTYPE
	loadHardware = ancillary + 28 // SKF_AD_HATYPE
	loadHasVLAN  = ancillary + 48 // SKF_AD_VLAN_TAG_PRESENT
)

const (
	wholeFrame    = 1<<32 - 1
	etherLen      = 14
	etherTypeAt   = 12
	ip4ProtocolAt = etherLen + 9
	ip4FragmentAt = etherLen + 6
	ip6NextAt     = etherLen + 6
	ip6Len        = 40
	fragmentMask  = 0x1fff
)

// A filter says which frames a packet socket gets.
type filter []unix.SockFilter

var (
	// nothing is the filter of a socket that is not to cost anything.
	nothing = filter{reject()}
	// everything is what the container's own stack would get: not what is for another host, and no VLAN's frames, whose
	// tag the socket would not show.
	everything = append(ours(), accept())
	// openings is the part of everything that RefuseNew drops, options of IPv6 apart.
	openings = append(ours(), opening()...)
)

// ours rejects what is not for the container, and goes on with the next instruction otherwise.
func ours() filter {
	return filter{
		load(unix.BPF_H, loadHardware),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ARPHRD_ETHER, Jf: 4},
		load(unix.BPF_B, loadKind),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PACKET_OTHERHOST, Jt: 2},
		load(unix.BPF_B, loadHasVLAN),
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
		reject(),
	}
}

// opening accepts a TCP segment with SYN and without ACK.
func opening() filter {
	f := filter{
		load(unix.BPF_H, etherTypeAt),
		jumpUnless(unix.ETH_P_IPV6, 4),
		load(unix.BPF_B, ip6NextAt),
		jumpUnless(unix.IPPROTO_TCP, 12),
		load(unix.BPF_B, etherLen+ip6Len+tcpFlagsAt),
		jump(7),
		jumpUnless(unix.ETH_P_IP, 9),
		load(unix.BPF_B, ip4ProtocolAt),
		jumpUnless(unix.IPPROTO_TCP, 7),
		load(unix.BPF_H, ip4FragmentAt),
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: fragmentMask, Jt: 5},
		{Code: unix.BPF_LDX | unix.BPF_MSH | unix.BPF_B, K: etherLen}, // X is the IPv4 header's length
		{Code: unix.BPF_LD | unix.BPF_IND | unix.BPF_B, K: etherLen + tcpFlagsAt},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: tcpSYN | tcpACK},
		jumpUnless(tcpSYN, 1),
	}
	return append(f, accept(), reject())
}

func load(size uint16, at uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | size | unix.BPF_ABS, K: at}
}

// jumpUnless skips some instructions unless what was loaded last equals value.
func jumpUnless(value uint32, skip uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
}

func jump(skip uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: skip}
}

func accept() unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: wholeFrame}
}

func reject() unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
}

// attach puts the filter in the place of the one before. What is queued already stays.
func (f filter) attach(socket int) error {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: unsafe.SliceData(f)}
	if err := unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach filter to packet socket: %w", err)
	}
	return nil
}
