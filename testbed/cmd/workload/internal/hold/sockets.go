package hold

import (
	"net"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func init() {
	for name, open := range map[string]func() (int, error){
		"mptcp-closed": socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP),
		"mptcp":        listening(unix.IPPROTO_MPTCP),
		"sctp":         socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP),
		"raw":          socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		"ping":         socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP),
		"packet":       socket(unix.AF_PACKET, unix.SOCK_RAW, 0),
		"vsock":        socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"alg":          socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"netlink":      netlink(unix.NETLINK_ROUTE, 0),
		"uevent":       netlink(unix.NETLINK_KOBJECT_UEVENT, 1),
		"nl-waiting":   netlinkWaiting,
		"in-flight":    inFlight,
		"udp":          socket(unix.AF_INET, unix.SOCK_DGRAM, 0),
		"udp-cork":     corked,
		"unix-pair":    pair(unix.SOCK_STREAM),
	} {
		kinds[name] = descriptor(open)
	}
	kinds["unix-waiting"] = unixWaiting
	kinds["unix-in-flight"] = unixInFlight
	kinds["unix-half"] = unixHalf
	kinds["scm"] = scm
	kinds["unix-outside"] = unixOutside
}

func socket(family, kind, proto int) func() (int, error) {
	return func() (int, error) { return unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto) }
}

// listening is a socket that waits for connections on any port.
func listening(proto int) func() (int, error) {
	return func() (int, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return -1, err
		}
		return fd, unix.Listen(fd, 16)
	}
}

func netlink(proto int, groups uint32) func() (int, error) {
	return func() (int, error) {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return -1, err
		}
		return fd, unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups})
	}
}

// netlinkWaiting has asked for the interfaces and does not read the answer.
func netlinkWaiting() (int, error) {
	fd, err := netlink(unix.NETLINK_ROUTE, 0)()
	if err != nil {
		return -1, err
	}
	// a header and a struct rtgenmsg: list all links
	request := []byte{20, 0, 0, 0, unix.RTM_GETLINK, 0, unix.NLM_F_REQUEST, unix.NLM_F_DUMP >> 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return fd, unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// inFlight has a connection that nobody accepts. Its other end is in the same process.
func inFlight() (int, error) {
	fd, err := listening(0)()
	if err != nil {
		return -1, err
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		return -1, err
	}
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	to := at.(*unix.SockaddrInet4)
	to.Addr = [4]byte{127, 0, 0, 1}
	return fd, unix.Connect(client, to)
}

// corked has a datagram that is not sent yet.
func corked() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_UDP, 1 /* UDP_CORK */, 1); err != nil {
		return -1, err
	}
	return fd, unix.Sendto(fd, []byte("half"), 0, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}})
}

func pair(kind int) func() (int, error) {
	return func() (int, error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		_, err = unix.Write(fds[0], []byte("waiting"))
		return fds[1], err
	}
}

// unixWaiting has a connection that nobody accepts, with nothing sent on it.
func unixWaiting(dir string) (Held, error) { return unixBacklog(dir, "") }

// unixInFlight has one on which something was sent.
func unixInFlight(dir string) (Held, error) { return unixBacklog(dir, "early") }

func unixBacklog(dir, said string) (Held, error) {
	at := &unix.SockaddrUnix{Name: filepath.Join(dir, "backlog.sock")}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Held{}, err
	}
	if err := unix.Bind(fd, at); err != nil {
		return Held{}, err
	}
	if err := unix.Listen(fd, 4); err != nil {
		return Held{}, err
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Held{}, err
	}
	if err := unix.Connect(client, at); err != nil {
		return Held{}, err
	}
	if said != "" {
		_, err = unix.Write(client, []byte(said))
	}
	return Held{FD: fd}, err
}

// unixHalf is a connection whose other end is closed.
func unixHalf(string) (Held, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Held{}, err
	}
	return Held{FD: fds[0]}, unix.Close(fds[1])
}

// scm has a descriptor under way in a socket.
func scm(string) (Held, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Held{}, err
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return Held{}, err
	}
	return Held{FD: fds[1], Keep: p}, unix.Sendmsg(fds[0], []byte("x"), unix.UnixRights(p[0]), nil, 0)
}

// unixOutside is a connection to outside.sock in dir, which somebody else listens at.
func unixOutside(dir string) (Held, error) {
	c, err := net.Dial("unix", filepath.Join(dir, "outside.sock"))
	if err != nil {
		return Held{}, err
	}
	f, err := c.(*net.UnixConn).File()
	if err != nil {
		return Held{}, err
	}
	return Held{FD: int(f.Fd()), Keep: []any{f, c}}, nil
}
