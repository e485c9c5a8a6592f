package cni

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"migrate/internal/network"
)

// Link is an interface in a namespace, loopback left out.
type Link struct {
	Name string
	Kind string // as ip link says: veth, macvlan, …
	MAC  string
	MTU  int
	Up   bool
	IPs  []string // global scope, with prefix length
}

// Dormant says that a link is one of those that kernel modules put into every new namespace (tunl0, sit0, gre0 and the
// like): down and without an address.
func (l Link) Dormant() bool {
	return !l.Up && len(l.IPs) == 0 && slices.Contains(moduleKinds, l.Kind)
}

// moduleKinds are the kinds of those links.
var moduleKinds = []string{"ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "ip6gretap", "vti", "vti6", "ip6erspan"}

// Links reads the interfaces of the namespace at path, in the kernel's order.
func Links(path string) ([]Link, error) {
	var links []Link
	err := network.Do(path, func() error {
		all, err := netlink.LinkList()
		if err != nil {
			return fmt.Errorf("list interfaces: %w", err)
		}
		for _, l := range all {
			if l.Attrs().Flags&net.FlagLoopback != 0 {
				continue
			}
			link, err := describe(l)
			if err != nil {
				return err
			}
			links = append(links, link)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read network namespace %s: %w", path, err)
	}
	return links, nil
}

func describe(l netlink.Link) (Link, error) {
	attrs := l.Attrs()
	link := Link{
		Name: attrs.Name, Kind: l.Type(), MAC: attrs.HardwareAddr.String(), MTU: attrs.MTU,
		Up: attrs.Flags&net.FlagUp != 0,
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return Link{}, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
	}
	for _, addr := range addrs {
		if addr.Scope == unix.RT_SCOPE_UNIVERSE {
			link.IPs = append(link.IPs, addr.IPNet.String())
		}
	}
	return link, nil
}

// settle makes the interface what the attachment says where the plugins did not: some know no MAC argument (ptp), and
// the MTU is the network's. Addresses are not touched, they are the plugins' to give.
func settle(path string, a Attachment) error {
	return network.Do(path, func() error {
		l, err := netlink.LinkByName(a.Interface)
		if err != nil {
			return fmt.Errorf("find interface %s: %w", a.Interface, err)
		}
		if a.MTU != 0 && l.Attrs().MTU != a.MTU {
			if err := netlink.LinkSetMTU(l, a.MTU); err != nil {
				return fmt.Errorf("set MTU of %s to %d: %w", a.Interface, a.MTU, err)
			}
		}
		if a.MAC == "" || l.Attrs().HardwareAddr.String() == a.MAC {
			return nil
		}
		mac, err := net.ParseMAC(a.MAC)
		if err != nil {
			return fmt.Errorf("parse MAC of %s: %w", a.Interface, err)
		}
		err = netlink.LinkSetHardwareAddr(l, mac)
		// Kinds that share their parent's address (ipvlan) refuse; the peers then learn the new one.
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("interface %s (%s) cannot keep MAC address %s: %w", a.Interface, l.Type(), a.MAC, err)
		}
		return err
	})
}

// verify reads the interface back.
func verify(path string, a Attachment) error {
	links, err := Links(path)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == a.Interface })
	if i < 0 {
		return fmt.Errorf("network %q made no interface %s", a.Network, a.Interface)
	}
	have := slices.Sorted(slices.Values(links[i].IPs))
	want := slices.Sorted(slices.Values(a.IPs))
	if a.Fresh && len(have) == 0 {
		return fmt.Errorf("network %q gave %s no address", a.Network, a.Interface)
	}
	if !a.Fresh && !slices.Equal(have, want) {
		return fmt.Errorf("network %q gave %s the addresses %v instead of %v: its subnet or IPAM plugin differs from the source's",
			a.Network, a.Interface, have, want)
	}
	if a.MAC != "" && links[i].MAC != a.MAC {
		return fmt.Errorf("network %q gave %s the MAC address %s instead of %s", a.Network, a.Interface, links[i].MAC, a.MAC)
	}
	return nil
}
