package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	sendBuffer = 16 << 20 // bytes of socket buffers under way to the container
	vlanLen    = 4        // a tag, which does not count as part of the MTU

	// A queue that is full is waited for a little: the container's own is emptied at once, a traffic shaper's in time.
	queueWait  = 100 * time.Microsecond
	queueLimit = 10 * time.Millisecond // in one call
)

// An Injector puts frames into a container's interfaces as if they came over the wire: it sends them from the other ends
// of its veth pairs, which must be in the namespace of the calling thread. It keeps that namespace alive until Close. Its
// methods may be called concurrently.
type Injector struct {
	netns  string
	ports  map[string]port // by the name inside the container
	absent []string

	mu     sync.Mutex
	socket int // -1 once closed
}

// A port is an interface of the container as seen from its other end.
type port struct {
	peer int              // index of the other end
	mac  net.HardwareAddr // of the container's end
	mtu  int
}

// NoPortError says that into none of a container's interfaces frames can be injected, since they are not veth pairs whose
// other ends are here. A container can be moved without; its peers then have to send again.
type NoPortError struct {
	NetNS      string
	Interfaces []string
}

func (e *NoPortError) Error() string {
	return fmt.Sprintf("inject frames into %s: not a veth pair with its other end here: %s", e.NetNS, strings.Join(e.Interfaces, ", "))
}

// NewInjector finds the interfaces' other ends as they are now. If there are interfaces and none has any, the error is a
// NoPortError; if some have none, what is for them is left to the peers to send again.
func NewInjector(netns string) (*Injector, error) {
	i := &Injector{netns: netns, ports: map[string]port{}, socket: -1}
	if err := i.findPorts(); err != nil {
		return nil, fmt.Errorf("prepare to inject frames into %s: %w", netns, err)
	}
	if len(i.ports) == 0 && len(i.absent) > 0 {
		return nil, &NoPortError{netns, i.absent}
	}
	if err := i.open(); err != nil {
		return nil, fmt.Errorf("prepare to inject frames into %s: %w", netns, err)
	}
	return i, nil
}

// Inject sends frames in their order and returns how many it sent. The lock must be open by now. Frames that are not for
// the container, or malformed, are left out; so are those that a full queue refuses for too long. The error says
// how many there were of these and what was wrong with the first.
func (i *Injector) Inject(frames []Frame) (n int, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var first error
	var buf []byte
	patience := queueLimit
	for _, f := range frames {
		buf, err = i.inject(f, buf[:0], &patience)
		if err == nil {
			n++
		} else if first == nil {
			first = err
		}
	}
	if first != nil {
		return n, fmt.Errorf("inject frames into %s: %d of %d were left out, the first since: %w", i.netns, len(frames)-n, len(frames), first)
	}
	return n, nil
}

// Close lets go of the namespace. The kernel closes a packet socket only after a grace period of some milliseconds,
// which Close does not wait for.
func (i *Injector) Close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	socket := i.socket
	i.socket = -1
	if socket >= 0 {
		go unix.Close(socket)
	}
}

func (i *Injector) open() error {
	// Protocol 0: a socket that only sends.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		unix.Close(fd)
		return fmt.Errorf("use frames' headers: %w", err)
	}
	// Without the privilege it stays as the host's default is, and sending takes a little longer.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer)
	i.socket = fd
	return nil
}

// inject sends one frame. buf is scratch memory and returned for the next one.
func (i *Injector) inject(f Frame, buf []byte, patience *time.Duration) ([]byte, error) {
	p, ok := i.ports[f.Interface]
	if !ok {
		return buf, fmt.Errorf("interface %q has no other end here", f.Interface)
	}
	header, err := p.check(f)
	if err != nil {
		return buf, fmt.Errorf("frame for %s: %w", f.Interface, err)
	}
	vnet := header.bytes()
	buf = append(append(buf, vnet[:]...), f.Data...)
	for {
		err = unix.Sendto(i.socket, buf, unix.MSG_DONTWAIT, &unix.SockaddrLinklayer{Ifindex: p.peer})
		if *patience <= 0 || !isAny(err, unix.ENOBUFS, unix.EAGAIN, unix.EINTR) {
			break
		}
		time.Sleep(queueWait)
		*patience -= queueWait
	}
	if err != nil {
		return buf, fmt.Errorf("send to %s: %w", f.Interface, err)
	}
	return buf, nil
}

// check returns the header to send a frame with, if it is one that the container would have received.
func (p port) check(f Frame) (vnetHeader, error) {
	if len(f.Data) < etherLen || len(f.Data) > MaxFrame {
		return vnetHeader{}, fmt.Errorf("%d bytes long", len(f.Data))
	}
	to := net.HardwareAddr(f.Data[:macLen])
	if group := to[0]&1 != 0; !group && !slices.Equal(to, p.mac) {
		return vnetHeader{}, fmt.Errorf("it is for %s", to)
	}
	header, err := parseVNet(f.VNet).forSending(len(f.Data))
	if err != nil {
		return header, err
	}
	if header.gsoType == unix.VIRTIO_NET_HDR_GSO_NONE && len(f.Data) > p.mtu+etherLen+vlanLen {
		return header, fmt.Errorf("%d bytes long, for an MTU of %d", len(f.Data), p.mtu)
	}
	return header, nil
}

// findPorts looks from both sides, so that an interface of another namespace that happens to have the other end's index
// is not taken for it.
func (i *Injector) findPorts() error {
	target, err := openNetns(i.netns)
	if err != nil {
		return err
	}
	defer target.Close()
	var inner []netlink.Link
	err = Do(i.netns, func() (err error) {
		inner, err = dump(netlink.LinkList)
		return err
	})
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range inner {
		a := link.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		peer, err := otherEnd(link, target)
		if err != nil {
			return err
		}
		if peer == 0 || len(a.HardwareAddr) != macLen {
			i.absent = append(i.absent, a.Name)
			continue
		}
		i.ports[a.Name] = port{peer: peer, mac: a.HardwareAddr, mtu: a.MTU}
	}
	return nil
}

// otherEnd returns the index of a veth's other end if that is in the calling thread's namespace, or else 0.
func otherEnd(link netlink.Link, netns *os.File) (int, error) {
	if link.Type() != "veth" || link.Attrs().ParentIndex <= 0 {
		return 0, nil
	}
	peer, err := netlink.LinkByIndex(link.Attrs().ParentIndex)
	var absent netlink.LinkNotFoundError
	if errors.As(err, &absent) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for the other end of %s: %w", link.Attrs().Name, err)
	}
	// the listing before has given the namespace an id here, if the pair leads to it
	id, err := netlink.GetNetNsIdByFd(int(netns.Fd()))
	if err != nil {
		return 0, fmt.Errorf("look for the namespace of %s: %w", link.Attrs().Name, err)
	}
	p := peer.Attrs()
	if peer.Type() != "veth" || p.ParentIndex != link.Attrs().Index || id < 0 || p.NetNsID != id {
		return 0, nil
	}
	return p.Index, nil
}
