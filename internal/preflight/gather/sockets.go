package gather

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"migrate/internal/network"
	"migrate/internal/preflight"
)

// sockets by inode, and which of them were asked themselves.
type sockets struct {
	all   map[uint64]*preflight.Socket
	asked map[uint64]bool
}

// readSockets asks the kernel for the sockets of all network namespaces in the container, and looks itself at those that the
// kernel does not list.
func readSockets(procs []*preflight.Process) (map[uint64]*preflight.Socket, error) {
	ss := &sockets{all: map[uint64]*preflight.Socket{}, asked: map[uint64]bool{}}
	for _, pid := range oneOfEach("net", procs) {
		if err := network.Do(procPath(pid, "ns/net"), ss.list); err != nil && !gone(err) {
			return nil, err
		}
	}
	for _, p := range procs {
		if err := ss.look(p); err != nil && !gone(err) {
			return nil, fmt.Errorf("process %d: %w", p.Pid, err)
		}
	}
	return ss.all, nil
}

// list reads the lists of the calling thread's network namespace.
func (ss *sockets) list() error {
	for _, q := range []struct {
		request diagRequest
		parse   func([]byte)
	}{
		{inetRequest(unix.AF_INET), ss.inet}, {inetRequest(unix.AF_INET6), ss.inet},
		{unixRequest(), ss.unix}, {netlinkRequest(), ss.netlink},
	} {
		request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		request.AddData(q.request)
		messages, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
		if errors.Is(err, unix.ENOENT) {
			continue // the kernel has no such family, and so no such socket
		}
		if err != nil {
			return fmt.Errorf("list sockets of family %d: %w", q.request[0], err)
		}
		for _, m := range messages {
			q.parse(m)
		}
	}
	return nil
}

// diagRequest is a request of sock_diag, without the netlink header.
type diagRequest []byte

// Len implements nl.NetlinkRequestData.
func (r diagRequest) Len() int { return len(r) }

// Serialize implements nl.NetlinkRequestData.
func (r diagRequest) Serialize() []byte { return r }

const allStates = ^uint32(0)

// inetRequest is a struct inet_diag_req_v2 for TCP sockets in all states (include/uapi/linux/inet_diag.h).
func inetRequest(family byte) diagRequest {
	r := make(diagRequest, 56)
	r[0], r[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(r[4:], allStates)
	return r
}

// unixRequest is a struct unix_diag_req (include/uapi/linux/unix_diag.h).
func unixRequest() diagRequest {
	const name, peer, icons, queues = 1, 4, 8, 16
	r := make(diagRequest, 24)
	r[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(r[4:], allStates)
	binary.NativeEndian.PutUint32(r[12:], name|peer|icons|queues)
	return r
}

// netlinkRequest is a struct netlink_diag_req (include/uapi/linux/netlink_diag.h).
func netlinkRequest() diagRequest {
	const memory, groups, allProtocols = 1, 2, 255
	r := make(diagRequest, 20)
	r[0], r[1] = unix.AF_NETLINK, allProtocols
	binary.NativeEndian.PutUint32(r[8:], memory|groups)
	return r
}

// attributes calls f for each attribute behind a message's fixed part.
func attributes(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= 4 {
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])&0x3fff
		if n < 4 || n > len(b) {
			return
		}
		f(kind, b[4:n])
		b = b[min((n+3)&^3, len(b)):]
	}
}

// inet reads a struct inet_diag_msg.
func (ss *sockets) inet(b []byte) {
	const fixed = 72
	if len(b) < fixed {
		return
	}
	s := &preflight.Socket{
		Family: int(b[0]), Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP, State: b[1],
		ReadQ: binary.NativeEndian.Uint32(b[56:]), WriteQ: binary.NativeEndian.Uint32(b[60:]), Inode: uint64(binary.NativeEndian.Uint32(b[68:])),
	}
	local := address(s.Family, b[8:24], b[4:6])
	s.Local, s.Name = local.Addr().Unmap(), local.String()
	if remote := address(s.Family, b[24:40], b[6:8]); remote.Port() != 0 {
		s.Name += " to " + remote.String()
	}
	ss.add(s)
}

func address(family int, ip, port []byte) netip.AddrPort {
	n := 4
	if family == unix.AF_INET6 {
		n = 16
	}
	a, _ := netip.AddrFromSlice(ip[:n])
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}

// unix reads a struct unix_diag_msg.
func (ss *sockets) unix(b []byte) {
	const fixed, name, peer, icons, queues, shutdown, both = 16, 0, 2, 3, 4, 6, 3
	if len(b) < fixed {
		return
	}
	s := &preflight.Socket{Family: unix.AF_UNIX, Type: int(b[1]), State: b[2], Inode: uint64(binary.NativeEndian.Uint32(b[4:]))}
	attributes(b[fixed:], func(kind uint16, value []byte) {
		switch {
		case kind == name:
			s.Name = unixName(value)
		case kind == peer && len(value) >= 4:
			s.Peer = uint64(binary.NativeEndian.Uint32(value))
		case kind == icons:
			for ; len(value) >= 4; value = value[4:] {
				s.Waiting = append(s.Waiting, uint64(binary.NativeEndian.Uint32(value)))
			}
		case kind == queues && len(value) >= 8:
			s.ReadQ, s.WriteQ = binary.NativeEndian.Uint32(value), binary.NativeEndian.Uint32(value[4:])
		case kind == shutdown && len(value) >= 1:
			s.Shut = value[0] == both
		}
	})
	ss.add(s)
}

// unixName shows a name; an abstract one begins with a zero byte.
func unixName(b []byte) string {
	if len(b) > 0 && b[0] == 0 {
		return "@" + string(b[1:])
	}
	return strings.TrimRight(string(b), "\x00")
}

// netlink reads a struct netlink_diag_msg.
func (ss *sockets) netlink(b []byte) {
	const fixed, memory, groups = 28, 0, 1
	if len(b) < fixed {
		return
	}
	s := &preflight.Socket{
		Family: unix.AF_NETLINK, Type: int(b[1]), Protocol: int(b[2]), Port: binary.NativeEndian.Uint32(b[4:]), Inode: uint64(binary.NativeEndian.Uint32(b[16:])),
	}
	attributes(b[fixed:], func(kind uint16, value []byte) {
		switch {
		case kind == memory && len(value) >= 4:
			s.ReadQ = binary.NativeEndian.Uint32(value)
		case kind == groups && len(value) >= 4:
			s.Groups = uint64(binary.NativeEndian.Uint32(value))
			for _, x := range value[4:] {
				s.WideGroups = s.WideGroups || x != 0
			}
		}
	})
	ss.add(s)
}

func (ss *sockets) add(s *preflight.Socket) {
	if s.Inode != 0 {
		ss.all[s.Inode] = s
	}
}

// look asks those sockets of a process what they are of which the lists do not tell: of other families and protocols, or neither bound
// nor connected; and what is listed as TCP may be a flow of an MPTCP socket, with the same inode. It takes a copy of the descriptor
// for a moment.
func (ss *sockets) look(p *preflight.Process) error {
	pidfd := -1
	defer func() {
		if pidfd >= 0 {
			unix.Close(pidfd)
		}
	}()
	for i := range p.FDs {
		d := &p.FDs[i]
		if !strings.HasPrefix(d.Link, "socket:[") {
			continue
		}
		ino := linkInode(d.Link)
		old := ss.all[ino]
		if old != nil && (old.Family == unix.AF_UNIX || old.Family == unix.AF_NETLINK || ss.asked[ino]) {
			continue
		}
		if pidfd < 0 {
			var err error
			if pidfd, err = unix.PidfdOpen(p.Pid, 0); err != nil {
				return fmt.Errorf("open pidfd: %w", err)
			}
		}
		s, err := lookAt(pidfd, d.FD)
		if gone(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", d.FD, err)
		}
		ss.answer(ino, s)
	}
	return nil
}

// answer takes up what a socket said of itself.
func (ss *sockets) answer(ino uint64, s *preflight.Socket) {
	ss.asked[ino] = true
	if old := ss.all[ino]; old != nil {
		old.Type, old.Protocol = s.Type, s.Protocol
		return
	}
	s.Inode = ino
	ss.all[ino] = s
}

func lookAt(pidfd, fd int) (*preflight.Socket, error) {
	sk, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return nil, fmt.Errorf("get descriptor: %w", err)
	}
	defer unix.Close(sk)
	s := &preflight.Socket{}
	for _, q := range []struct {
		option int
		answer *int
	}{{unix.SO_DOMAIN, &s.Family}, {unix.SO_TYPE, &s.Type}, {unix.SO_PROTOCOL, &s.Protocol}} {
		if *q.answer, err = unix.GetsockoptInt(sk, unix.SOL_SOCKET, q.option); err != nil {
			return nil, fmt.Errorf("ask the socket: %w", err)
		}
	}
	inet := s.Family == unix.AF_INET || s.Family == unix.AF_INET6
	if inet {
		s.Local, s.Name = boundTo(sk)
	}
	if inet && s.Type == unix.SOCK_DGRAM && (s.Protocol == unix.IPPROTO_UDP || s.Protocol == unix.IPPROTO_UDPLITE) {
		const cork = 1
		on, err := unix.GetsockoptInt(sk, unix.IPPROTO_UDP, cork)
		s.Corked = err == nil && on != 0
	}
	return s, nil
}

// boundTo asks a socket for its address.
func boundTo(sk int) (netip.Addr, string) {
	sa, err := unix.Getsockname(sk)
	if err != nil {
		return netip.Addr{}, ""
	}
	var a netip.AddrPort
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		a = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	default:
		return netip.Addr{}, ""
	}
	return a.Addr().Unmap(), a.String()
}

// lookBehindPipes asks the pipes of which the container has one end only whether anybody has the other. Of those that the runtime
// hands over anew it is known.
func lookBehindPipes(c *preflight.Container) {
	type end struct {
		read, write, asked, hangup bool
	}
	pipes := map[string]*end{}
	each := func(f func(p *preflight.Process, d *preflight.Descriptor)) {
		for _, p := range c.Procs {
			for i := range p.FDs {
				if d := &p.FDs[i]; strings.HasPrefix(d.Link, "pipe:[") {
					f(p, d)
				}
			}
		}
	}
	each(func(_ *preflight.Process, d *preflight.Descriptor) {
		e := pipes[d.Link]
		if e == nil {
			e = &end{asked: slices.Contains(c.Passed, d.Link)}
			pipes[d.Link] = e
		}
		mode := d.Flags & unix.O_ACCMODE
		e.read = e.read || mode != unix.O_WRONLY
		e.write = e.write || mode != unix.O_RDONLY
	})
	each(func(p *preflight.Process, d *preflight.Descriptor) {
		e := pipes[d.Link]
		if e.read && e.write {
			return
		}
		if !e.asked {
			e.hangup, e.asked = hungUp(p.Pid, d.FD)
		}
		d.Hangup = e.hangup
	})
}

// hungUp says whether nobody is at the other end of a pipe. It is not asked if the descriptor is gone, and was the last one as far as
// that one knows.
func hungUp(pid, fd int) (hangup, asked bool) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return true, false
	}
	defer unix.Close(pidfd)
	end, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return true, false
	}
	defer unix.Close(end)
	polled := []unix.PollFd{{Fd: int32(end)}}
	_, _ = unix.Poll(polled, 0)
	return polled[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0, true
}
