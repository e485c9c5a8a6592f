package network

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// EstablishedOf counts the TCP connections that the processes hold open, where their namespace has those of others too.
// It looks in the namespace of the first process. Loopback connections count: with the host's network their other end
// may be a process of the host.
func EstablishedOf(pids []int) (int, error) {
	if len(pids) == 0 {
		return 0, nil
	}
	inodes := socketsOf(pids)
	n := 0
	err := Do(fmt.Sprintf("/proc/%d/ns/net", pids[0]), func() error {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			sockets, err := dump(func() ([]*netlink.Socket, error) { return netlink.SocketDiagTCP(family) })
			if err != nil {
				return err
			}
			for _, s := range sockets {
				if _, ok := stateNames[State(s.State)]; ok && inodes[fmt.Sprintf("socket:[%d]", s.INode)] {
					n++
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("count tcp connections of process %d and others: %w", pids[0], err)
	}
	return n, nil
}

// socketsOf reads the descriptors' links. A process that ends meanwhile has none.
func socketsOf(pids []int) map[string]bool {
	found := map[string]bool{}
	for _, pid := range pids {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil {
				found[to] = true
			}
		}
	}
	return found
}
