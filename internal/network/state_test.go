package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestInterfaces(t *testing.T) {
	b := newBed(t)
	b.addPair(t, "eth1")
	list, err := Interfaces(b.container)
	check(t, err)
	if len(list) != 2 {
		t.Fatalf("%d interfaces, want 2: %+v", len(list), list)
	}
	eth0, eth1 := list[0], list[1]
	if eth0.Name != "eth0" {
		eth0, eth1 = eth1, eth0
	}
	if eth0.MAC.String() != containerMAC.String() || eth0.MTU != 1500 || !eth0.Up || eth0.Index == 0 {
		t.Errorf("eth0 is %+v", eth0)
	}
	for _, want := range []string{container4 + "/24", container6 + "/64"} {
		if !slices.Contains(eth0.IPs, netip.MustParsePrefix(want)) {
			t.Errorf("eth0 has %v, want %s among them", eth0.IPs, want)
		}
	}
	if eth1.Name != "eth1" || eth1.Up || eth1.IPs != nil {
		t.Errorf("eth1 is %+v", eth1)
	}
}

func TestInterfacesOfEmptyNamespace(t *testing.T) {
	if list, err := Interfaces(newNetns(t)); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
}

func TestEstablishedTCP(t *testing.T) {
	for name, ip := range map[string]string{"IPv4": container4, "IPv6": container6, "mapped": container4} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			listenIP := ip
			if name == "mapped" {
				listenIP = "" // [::], which accepts IPv4 as well
			}
			l := listen(t, b.container, net.JoinHostPort(listenIP, "0"))
			_, port, err := net.SplitHostPort(l.Addr().String())
			check(t, err)
			client, err := dial(b.peer, net.JoinHostPort(ip, port), patience)
			check(t, err)
			defer client.Close()
			want := Conn{
				Local:  netip.MustParseAddrPort(client.RemoteAddr().String()),
				Remote: netip.MustParseAddrPort(client.LocalAddr().String()),
				State:  Established,
			}
			got, err := EstablishedTCP(b.container)
			check(t, err)
			if !slices.Equal(got, []Conn{want}) || got[0].Loopback() {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestLoopbackConnections(t *testing.T) {
	netns := newNetns(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		client, err := dial(netns, listen(t, netns, addr).Addr().String(), patience)
		check(t, err)
		defer client.Close()
	}
	got, err := EstablishedTCP(netns)
	check(t, err)
	if len(got) != 4 || slices.ContainsFunc(got, func(c Conn) bool { return !c.Loopback() }) {
		t.Errorf("got %v, want both ends of two loopback connections", got)
	}
}

func TestStateString(t *testing.T) {
	for state, want := range map[State]string{Established: "established", LastAck: "last-ack", 99: "state 99"} {
		if got := state.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestDoIsInsideAndComesBack(t *testing.T) {
	netns := newNetns(t)
	want := inode(t, netns)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			var got uint64
			err := Do(netns, func() (err error) {
				got, err = inodeOf(ownNetns)
				return err
			})
			if err != nil || got != want {
				t.Errorf("inside is namespace %d, %v, want %d", got, err, want)
			}
		})
	}
	group.Wait()
	wantNoThreadIn(t, want)
}

func TestDoErrors(t *testing.T) {
	netns := newNetns(t)
	cause := errors.New("cause")
	if err := Do(netns, func() error { return cause }); !errors.Is(err, cause) {
		t.Errorf("got %v, want %v", err, cause)
	}
	if err := Do(netns, func() error { runtime.Goexit(); return nil }); !errors.Is(err, errNotReturned) {
		t.Errorf("got %v, want %v", err, errNotReturned)
	}
	if err := Do("/nowhere", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want %v", err, os.ErrNotExist)
	}
	if err := Do(os.DevNull, nil); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want %v", err, unix.EINVAL)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	n, err := inodeOf(path)
	check(t, err)
	return n
}

func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	return st.Ino, err
}

// wantNoThreadIn fails if a thread of this process stays in a namespace. The thread that made it may still be ending.
func wantNoThreadIn(t *testing.T, netns uint64) {
	t.Helper()
	eventually(t, "no thread is left in the namespace", func() bool {
		tasks, err := os.ReadDir("/proc/self/task")
		check(t, err)
		return !slices.ContainsFunc(tasks, func(task os.DirEntry) bool {
			n, err := inodeOf("/proc/self/task/" + task.Name() + "/ns/net")
			return err == nil && n == netns
		})
	})
}

func neighbour(t *testing.T, netns, ip string) string {
	t.Helper()
	var mac string
	inside(t, netns, func() error {
		list, err := netlink.NeighList(0, netlink.FAMILY_ALL)
		for _, n := range list {
			if n.IP.Equal(net.ParseIP(ip)) {
				mac = n.HardwareAddr.String()
			}
		}
		return err
	})
	return mac
}
