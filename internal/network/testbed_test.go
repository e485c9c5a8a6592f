package network

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

// patience ends a test that waits for what never comes; silence is how long nothing must come.
const (
	patience = 10 * time.Second
	silence  = 300 * time.Millisecond
)

// A bed is a container and its peer, joined by a veth pair.
type bed struct {
	container, peer string
}

var (
	containerMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	peerMAC      = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

const (
	container4 = "10.77.0.1"
	container6 = "fd77::1"
	peer4      = "10.77.0.2"
	peer6      = "fd77::2"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOTHING TESTED: network namespaces need root")
	}
}

func newBed(t testing.TB) bed {
	t.Helper()
	b := bed{container: newNetns(t), peer: newNetns(t)}
	b.connect(t)
	return b
}

// newNetns makes a namespace with loopback up and returns its path.
func newNetns(t testing.TB) string {
	t.Helper()
	needRoot(t)
	path := filepath.Join(t.TempDir(), "netns")
	check(t, os.WriteFile(path, nil, 0o600))
	check(t, thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(ownNetns, path, "", unix.MS_BIND, "")
	}))
	t.Cleanup(func() { check(t, unix.Unmount(path, unix.MNT_DETACH)) })
	inside(t, path, func() error { return linkUp("lo") })
	return path
}

// connect puts an eth0 into both namespaces.
func (b bed) connect(t testing.TB) {
	t.Helper()
	b.addPair(t, "eth0")
	inside(t, b.container, func() error { return configure("eth0", containerMAC, container4+"/24", container6+"/64") })
	inside(t, b.peer, func() error { return configure("eth0", peerMAC, peer4+"/24", peer6+"/64") })
	eventually(t, "the container is reachable", func() bool { return ready(t, b.container, container6) })
	eventually(t, "the peer is reachable", func() bool { return ready(t, b.peer, peer6) })
}

// ready says whether eth0 has its carrier, without which packets are lost, and the kernel knows its IPv6 address for
// one of its own: both come only after the call that asked for them has returned.
func ready(t testing.TB, netns, own string) (ok bool) {
	t.Helper()
	inside(t, netns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		routes, err := netlink.RouteGet(net.ParseIP(own))
		if err != nil || link.Attrs().OperState != netlink.OperUp {
			return nil // not yet
		}
		ok = len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
		return nil
	})
	return ok
}

func (b bed) addPair(t testing.TB, name string) {
	t.Helper()
	peer, err := os.Open(b.peer)
	check(t, err)
	defer peer.Close()
	inside(t, b.container, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(peer.Fd())})
	})
}

func configure(name string, mac net.HardwareAddr, addrs ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
		return err
	}
	for _, s := range addrs {
		addr, err := netlink.ParseAddr(s)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func linkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

func inside(t testing.TB, netns string, fn func() error) {
	t.Helper()
	check(t, Do(netns, fn))
}

func listen(t testing.TB, netns, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	inside(t, netns, func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

func dial(netns, addr string, timeout time.Duration) (net.Conn, error) {
	var c net.Conn
	err := Do(netns, func() (err error) {
		c, err = net.DialTimeout("tcp", addr, timeout)
		return err
	})
	return c, err
}

// connection returns both ends of a connection from the peer to the container.
func (b bed) connection(t testing.TB, ip string) (server, client net.Conn) {
	t.Helper()
	l := listen(t, b.container, net.JoinHostPort(ip, "0"))
	client, err := dial(b.peer, l.Addr().String(), patience)
	check(t, err)
	server, err = l.Accept()
	check(t, err)
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return server, client
}

// A tap is a packet socket on eth0.
type tap struct{ fd, index int }

func newTap(t testing.TB, netns string) tap {
	t.Helper()
	var p tap
	inside(t, netns, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		p.index = link.Attrs().Index
		p.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		return unix.Bind(p.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: p.index})
	})
	t.Cleanup(func() { unix.Close(p.fd) })
	wait := unix.NsecToTimeval(int64(silence))
	check(t, unix.SetsockoptTimeval(p.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	return p
}

func (p tap) send(b []byte) error {
	return unix.Sendto(p.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: p.index})
}

// read returns the frames that come up to and including the one that is last.
func (p tap) read(t testing.TB, last func([]byte) bool) [][]byte {
	t.Helper()
	var frames [][]byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		buf := make([]byte, 2048)
		n, from, err := unix.Recvfrom(p.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		check(t, err)
		if from.(*unix.SockaddrLinklayer).Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		frames = append(frames, buf[:n])
		if last(buf[:n]) {
			return frames
		}
	}
	t.Fatalf("frame did not come; %d others did: %x", len(frames), frames)
	return nil
}

// probe is a frame of no protocol that only a tap sees.
func probe(src net.HardwareAddr, id byte) []byte {
	return append(ethernet(broadcastMAC, src, 0x88b5), id)
}

func isProbe(id byte) func([]byte) bool {
	return func(b []byte) bool { return len(b) > 14 && b[12] == 0x88 && b[13] == 0xb5 && b[14] == id }
}

// whoHas asks for the container's MAC in the name of an address.
func whoHas(sender string) []byte {
	b := arpFrame(unix.ETH_P_ARP, arpRequest, peerMAC, netip.MustParseAddr(container4), make(net.HardwareAddr, macLen))
	copy(b[28:], netip.MustParseAddr(sender).AsSlice())
	return b
}

func isARPReplyTo(addr string) func([]byte) bool {
	want := netip.MustParseAddr(addr)
	return func(b []byte) bool {
		return len(b) >= 42 && b[12] == 8 && b[13] == 6 && b[21] == arpReply && netip.AddrFrom4([4]byte(b[38:42])) == want
	}
}
