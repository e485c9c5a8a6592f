package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// State is the kernel's state of a TCP connection (include/net/tcp_states.h).
type State uint8

// The states that EstablishedTCP reports.
const (
	Established State = netlink.TCP_ESTABLISHED
	SynSent     State = netlink.TCP_SYN_SENT
	SynReceived State = netlink.TCP_SYN_RECV
	FinWait1    State = netlink.TCP_FIN_WAIT1
	FinWait2    State = netlink.TCP_FIN_WAIT2
	CloseWait   State = netlink.TCP_CLOSE_WAIT
	LastAck     State = netlink.TCP_LAST_ACK
	Closing     State = netlink.TCP_CLOSING
)

var stateNames = map[State]string{
	Established: "established",
	SynSent:     "syn-sent",
	SynReceived: "syn-received",
	FinWait1:    "fin-wait-1",
	FinWait2:    "fin-wait-2",
	CloseWait:   "close-wait",
	LastAck:     "last-ack",
	Closing:     "closing",
}

func (s State) String() string {
	if name, ok := stateNames[s]; ok {
		return name
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Conn is a TCP connection.
type Conn struct {
	Local, Remote netip.AddrPort
	State         State
}

// Loopback says whether both ends of the connection are in the container by their addresses. A connection of the
// container to an address of its own interface is not recognised.
func (c Conn) Loopback() bool {
	return c.Local.Addr().IsLoopback() && c.Remote.Addr().IsLoopback()
}

func (c Conn) String() string {
	return fmt.Sprintf("%v-%v %v", c.Local, c.Remote, c.State)
}

// EstablishedTCP lists the TCP connections of a namespace that a peer may know of: neither listening sockets nor
// connections in TIME-WAIT. IPv4 addresses are given as such also where an IPv6 socket holds them.
func EstablishedTCP(netns string) ([]Conn, error) {
	var conns []Conn
	err := Do(netns, func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := dump(func() ([]*netlink.Socket, error) { return netlink.SocketDiagTCP(family) })
			if err != nil {
				return err
			}
			conns = appendConns(conns, sockets)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tcp connections of %s: %w", netns, err)
	}
	return conns, nil
}

func appendConns(conns []Conn, sockets []*netlink.Socket) []Conn {
	for _, s := range sockets {
		state := State(s.State)
		if _, ok := stateNames[state]; !ok {
			continue
		}
		conns = append(conns, Conn{
			Local:  addrPort(s.ID.Source, s.ID.SourcePort),
			Remote: addrPort(s.ID.Destination, s.ID.DestinationPort),
			State:  state,
		})
	}
	return conns
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}
