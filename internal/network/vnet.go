package network

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// vnetHeader is struct virtio_net_hdr as packet sockets use it: in the host's byte order (include/linux/virtio_net.h).
// Offsets count from the frame's first byte.
type vnetHeader struct {
	flags, gsoType        uint8
	headerLen, gsoSize    uint16
	csumStart, csumOffset uint16
}

func parseVNet(b [VNetLen]byte) vnetHeader {
	n := binary.NativeEndian
	return vnetHeader{
		flags:      b[0],
		gsoType:    b[1],
		headerLen:  n.Uint16(b[2:]),
		gsoSize:    n.Uint16(b[4:]),
		csumStart:  n.Uint16(b[6:]),
		csumOffset: n.Uint16(b[8:]),
	}
}

func (h vnetHeader) bytes() (b [VNetLen]byte) {
	n := binary.NativeEndian
	b[0], b[1] = h.flags, h.gsoType
	n.PutUint16(b[2:], h.headerLen)
	n.PutUint16(b[4:], h.gsoSize)
	n.PutUint16(b[6:], h.csumStart)
	n.PutUint16(b[8:], h.csumOffset)
	return b
}

// forSending checks the header against the frame's length, in bytes, and leaves of it only what sending is about. The
// kernel checks once more, in __packet_snd_vnet_parse and virtio_net_hdr_to_skb.
func (h vnetHeader) forSending(length int) (vnetHeader, error) {
	h.flags &= unix.VIRTIO_NET_HDR_F_NEEDS_CSUM // others tell what was found on receipt
	if int(h.headerLen) > length {
		return h, fmt.Errorf("headers of %d bytes in a frame of %d", h.headerLen, length)
	}
	if h.flags == 0 {
		h.csumStart, h.csumOffset = 0, 0
	} else if h.csumStart < etherLen || int(h.csumStart)+int(h.csumOffset)+2 > length {
		return h, fmt.Errorf("checksum at %d+%d in a frame of %d bytes", h.csumStart, h.csumOffset, length)
	}
	switch h.gsoType &^ unix.VIRTIO_NET_HDR_GSO_ECN {
	case unix.VIRTIO_NET_HDR_GSO_NONE:
		h.gsoType, h.gsoSize, h.headerLen = unix.VIRTIO_NET_HDR_GSO_NONE, 0, 0
	case unix.VIRTIO_NET_HDR_GSO_TCPV4, unix.VIRTIO_NET_HDR_GSO_TCPV6, unix.VIRTIO_NET_HDR_GSO_UDP, unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		if h.gsoSize == 0 {
			return h, errors.New("segments of no size")
		}
		h.headerLen = min(h.headerLen, mostHeaders)
	default:
		return h, fmt.Errorf("segmentation type %#x", h.gsoType)
	}
	return h, nil
}

// mostHeaders bounds what the kernel allocates in one piece for a frame; it pulls more as it needs.
const mostHeaders = 256
