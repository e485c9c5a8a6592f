package preflight

import (
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// The states of sockets that matter here (include/net/tcp_states.h).
const (
	tcpEstablished = 1
	tcpClosed      = 7
	tcpListen      = 10
)

// protocols of the internet families that CRIU dumps (criu/sk-inet.c, can_dump_ipproto). Raw sockets may have any.
var protocols = []int{unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6}

// socket judges one socket by its family.
func (j *judgement) socket(p *Process, d *Descriptor) {
	ino, _ := inode(d.Link, "socket:[")
	s := j.c.Sockets[ino]
	if s == nil {
		return // it was closed meanwhile
	}
	t := p.at(d)
	t.Path, t.Socket = "", s.describe()
	switch s.Family {
	case unix.AF_INET, unix.AF_INET6:
		j.inet(t, s)
	case unix.AF_UNIX:
		j.unix(t, s)
	case unix.AF_NETLINK:
		j.netlink(t, s)
	case unix.AF_PACKET:
	default:
		j.add("socket-family", t, familyName(s.Family))
	}
}

func (j *judgement) inet(t Thing, s *Socket) {
	connected := s.Type == unix.SOCK_STREAM && s.State != tcpListen && s.State != tcpClosed && s.State != 0
	switch {
	case !j.leaves(s.Local), connected && j.c.CloseTCP:
	case connected:
		j.add("tcp-network", t, "")
	default:
		j.add("address-bound", t, "")
	}
	switch {
	case s.Type == unix.SOCK_RAW:
	case s.Protocol == unix.IPPROTO_MPTCP:
		j.add("socket-mptcp", t, "")
	case !slices.Contains(protocols, s.Protocol):
		j.add("socket-protocol", t, protocolName(s.Protocol))
	case s.Corked:
		j.add("udp-corked", t, "")
	case s.Type == unix.SOCK_STREAM && s.State == tcpListen && s.ReadQ > 0:
		j.add("tcp-waiting", t, fmt.Sprintf("%d wait", s.ReadQ))
	}
}

// leaves says whether an address stays behind. Those of a link alone are made of its hardware address, which is another one on
// another network.
func (j *judgement) leaves(a netip.Addr) bool {
	return slices.Contains(j.c.Leaving, a) || len(j.c.Leaving) > 0 && a.IsLinkLocalUnicast()
}

// unix judges a unix socket: whoever it is connected to must move along.
func (j *judgement) unix(t Thing, s *Socket) {
	connected := s.State == tcpEstablished && s.Type != unix.SOCK_DGRAM
	switch {
	case s.Peer != 0 && !j.own[s.Peer] && !j.waiting[s.Peer]:
		j.add("unix-outside", t, "")
	case s.Peer == 0 && connected && !s.Shut && !j.waiting[s.Inode]:
		j.add("unix-outside", t, "it waits to be accepted there")
	case s.State == tcpListen && slices.Contains(s.Waiting, 0):
		j.add("unix-waiting", t, "it was closed meanwhile")
	case s.Peer == 0 && connected && s.WriteQ > 0 && j.waiting[s.Inode]:
		j.add("unix-waiting", t, "something was sent on it")
	}
}

func (j *judgement) netlink(t Thing, s *Socket) {
	switch {
	case s.ReadQ > 0:
		j.add("netlink-waiting", t, "")
	case s.WideGroups:
		j.add("netlink-groups", t, "it is in groups above 32")
	case s.Groups != 0 && s.Port == 0:
		j.add("netlink-groups", t, "it has no port")
	}
}

func (s *Socket) describe() string {
	kind := familyName(s.Family)
	if s.Family == unix.AF_INET || s.Family == unix.AF_INET6 {
		kind = protocolName(s.Protocol)
	}
	text := fmt.Sprintf("%s socket %d", kind, s.Inode)
	if s.Name != "" {
		text += " " + s.Name
	}
	return text
}

var familyNames = map[int]string{
	unix.AF_UNIX: "unix", unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6", unix.AF_NETLINK: "netlink", unix.AF_PACKET: "packet",
	unix.AF_VSOCK: "vsock", unix.AF_ALG: "AF_ALG (kernel crypto)", unix.AF_XDP: "XDP", unix.AF_CAN: "CAN", unix.AF_BLUETOOTH: "bluetooth",
	unix.AF_TIPC: "TIPC", unix.AF_KEY: "key management", unix.AF_QIPCRTR: "QRTR", unix.AF_RDS: "RDS", unix.AF_SMC: "SMC",
}

func familyName(family int) string {
	if name, ok := familyNames[family]; ok {
		return name
	}
	return fmt.Sprintf("family %d", family)
}

var protocolNames = map[int]string{
	unix.IPPROTO_IP: "IP", unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP", unix.IPPROTO_UDPLITE: "UDP-Lite", unix.IPPROTO_ICMP: "ICMP",
	unix.IPPROTO_ICMPV6: "ICMPv6", unix.IPPROTO_MPTCP: "MPTCP", unix.IPPROTO_SCTP: "SCTP", unix.IPPROTO_DCCP: "DCCP", unix.IPPROTO_L2TP: "L2TP",
}

func protocolName(proto int) string {
	if name, ok := protocolNames[proto]; ok {
		return name
	}
	return fmt.Sprintf("protocol %d", proto)
}
