package network

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// MaxNeighbours bounds how many neighbours are copied: the kernel's tables, for the host and all its containers together,
// hold 1024 as a rule (net/core/neighbour.c, gc_thresh3).
const MaxNeighbours = 256

// Neighbour is what a container knows of a host on its network. A container that moves together with what it knows need
// not ask, which takes a second if the first question or its answer is lost.
type Neighbour struct {
	Interface string     `json:"interface"`
	IP        netip.Addr `json:"ip"`
	MAC       string     `json:"mac"`
	Router    bool       `json:"router,omitempty"` // said of itself that it is one, IPv6 only
}

// usable are the states in which an entry has a link layer address; better ones come first.
var usable = []int{
	netlink.NUD_PERMANENT, netlink.NUD_REACHABLE, netlink.NUD_DELAY, netlink.NUD_PROBE, netlink.NUD_STALE,
}

// Neighbours lists those of a namespace, those that answered last first, at most MaxNeighbours.
func Neighbours(netns string) ([]Neighbour, error) {
	var list []Interface
	var entries []netlink.Neigh
	err := Do(netns, func() (err error) {
		if list, err = links(); err != nil {
			return err
		}
		entries, err = dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_ALL) })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list neighbours of %s: %w", netns, err)
	}
	slices.SortStableFunc(entries, func(a, b netlink.Neigh) int {
		return cmp.Compare(slices.Index(usable, a.State), slices.Index(usable, b.State))
	})
	names := map[int]string{}
	for _, itf := range list {
		names[itf.Index] = itf.Name
	}
	var found []Neighbour
	for _, e := range entries {
		ip, ok := netip.AddrFromSlice(e.IP)
		name := names[e.LinkIndex]
		if !ok || name == "" || len(e.HardwareAddr) != macLen || !slices.Contains(usable, e.State) || len(found) == MaxNeighbours {
			continue
		}
		found = append(found, Neighbour{name, ip.Unmap(), e.HardwareAddr.String(), e.Flags&netlink.NTF_ROUTER != 0})
	}
	return found, nil
}

// SetNeighbours makes known to a namespace what another one knew. The entries are stale: they are used at once, and
// verified soon after. Entries that are there already stay as they are, and those of the calling thread's namespace's own
// addresses are left out: a gateway on the host is another one at each place. An entry that cannot be set keeps no
// other from being set.
func SetNeighbours(netns string, list []Neighbour) error {
	if len(list) > MaxNeighbours {
		list = list[:MaxNeighbours]
	}
	own, err := ownAddresses()
	if err != nil {
		return fmt.Errorf("set neighbours of %s: %w", netns, err)
	}
	err = Do(netns, func() error {
		interfaces, err := links()
		if err != nil {
			return err
		}
		var errs []error
		for _, n := range list {
			if !own[n.IP] {
				errs = append(errs, n.set(interfaces))
			}
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("set neighbours of %s: %w", netns, err)
	}
	return nil
}

func (n Neighbour) set(list []Interface) error {
	i := slices.IndexFunc(list, func(itf Interface) bool { return itf.Name == n.Interface })
	if i < 0 {
		return fmt.Errorf("neighbour %v: there is no interface %q", n.IP, n.Interface)
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != macLen || mac[0]&1 != 0 {
		return fmt.Errorf("neighbour %v: %q is no address of a host's interface", n.IP, n.MAC)
	}
	if !n.IP.IsValid() || n.IP.IsMulticast() || n.IP.IsUnspecified() || n.IP.IsLoopback() {
		return fmt.Errorf("neighbour %v: not an address of a host on a network", n.IP)
	}
	entry := netlink.Neigh{LinkIndex: list[i].Index, IP: n.IP.AsSlice(), HardwareAddr: mac, State: netlink.NUD_STALE}
	if n.Router {
		entry.Flags = netlink.NTF_ROUTER
	}
	if err := netlink.NeighAdd(&entry); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("neighbour %v on %s: %w", n.IP, n.Interface, err)
	}
	return nil
}

// ownAddresses are those of the calling thread's namespace.
func ownAddresses() (map[netip.Addr]bool, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	own := map[netip.Addr]bool{}
	for _, a := range addrs {
		own[toPrefix(a.IPNet).Addr()] = true
	}
	return own, nil
}
