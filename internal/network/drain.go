package network

import (
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Drain returns when no connection is about to be established or waits in a listening socket's backlog, or after limit:
// CRIU can dump neither. It is to be called between RefuseNew, so that no new ones come, and Shut, so that those that
// have begun can end.
func Drain(netns string, limit time.Duration) error {
	const poll = time.Millisecond
	err := Do(netns, func() error {
		for end := time.Now().Add(limit); ; time.Sleep(poll) {
			n, err := backlog()
			if err != nil || n == 0 || time.Now().After(end) {
				return err
			}
		}
	})
	if err != nil {
		return fmt.Errorf("drain the backlogs of %s: %w", netns, err)
	}
	return nil
}

// backlog counts the connections that peers opened and that wait to be accepted, or for their handshake's end: a
// listening socket reports the former as its receive queue (net/ipv4/tcp_diag.c).
func backlog() (n uint32, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := dump(func() ([]*netlink.Socket, error) { return netlink.SocketDiagTCP(family) })
		if err != nil {
			return 0, err
		}
		for _, s := range sockets {
			switch {
			case s.State == netlink.TCP_LISTEN:
				n += s.RQueue
			case State(s.State) == SynReceived:
				n++
			}
		}
	}
	return n, nil
}
