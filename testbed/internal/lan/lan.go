// Package lan wires the hosts of a testbed together.
//
// The switch is a bridge in a network namespace of its own, so that the machine's
// network is not touched. Each host has one port:
//
//	 switch's namespace          host's namespace
//	br0 ── port-a ═══ veth ═══ eth0 ── cni0 (the host's addresses)
//	    │                               ├── veth of a container
//	    └─ port-b ═══ …                 └── veth of a container
//
// A host's address is on the bridge cni0 and eth0 is a port of it. Containers that
// join cni0 are therefore on one segment with all hosts, and a container's address
// can move from host to host with nothing but a gratuitous ARP.
package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const (
	switchBridge = "br0"
	hostLink     = "eth0"

	// HostBridge is the bridge in a host that has its address and takes its containers.
	HostBridge = "cni0"
)

// A Port is what connects one host to the switch.
type Port struct {
	Host      string
	SwitchPID int // a process in the switch's network namespace
	HostPID   int // a process in the host's network namespace
}

func (p Port) name() string { return "port-" + p.Host }

// An Address is what a host is reached at.
type Address struct {
	V4, V6 netip.Prefix
	MAC    net.HardwareAddr // of the bridge that has the addresses
}

// MakeSwitch makes the bridge in the namespace of pid.
func MakeSwitch(pid int) error {
	return inside(pid, func(h *netlink.Handle) error {
		// The switch forwards multicast like broadcast: it has no querier to learn groups from.
		snooping := false
		bridge := &netlink.Bridge{LinkAttrs: named(switchBridge), MulticastSnooping: &snooping}
		if err := h.LinkAdd(bridge); err != nil {
			return fmt.Errorf("make the switch: %w", err)
		}
		return up(h, switchBridge)
	})
}

// Connect plugs a host into the switch and gives it its addresses.
func (p Port) Connect(address Address) error {
	if err := inside(p.SwitchPID, p.plug); err != nil {
		return fmt.Errorf("connect host %s to the switch: %w", p.Host, err)
	}
	err := inside(p.HostPID, func(h *netlink.Handle) error { return configureHost(h, address) })
	if err != nil {
		return fmt.Errorf("configure the network of host %s: %w", p.Host, err)
	}
	return nil
}

func (p Port) plug(h *netlink.Handle) error {
	veth := &netlink.Veth{
		LinkAttrs:     named(p.name()),
		PeerName:      hostLink,
		PeerNamespace: netlink.NsPid(p.HostPID),
	}
	if err := h.LinkAdd(veth); err != nil {
		return fmt.Errorf("make %s: %w", p.name(), err)
	}
	if err := enslave(h, p.name(), switchBridge); err != nil {
		return err
	}
	return up(h, p.name())
}

func configureHost(h *netlink.Handle, address Address) error {
	attrs := named(HostBridge)
	// A bridge without a set MAC takes that of its lowest port, and changes it as
	// containers come and go.
	attrs.HardwareAddr = address.MAC
	snooping := false
	if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("make %s: %w", HostBridge, err)
	}
	if err := enslave(h, hostLink, HostBridge); err != nil {
		return err
	}
	for _, prefix := range []netip.Prefix{address.V4, address.V6} {
		if err := addAddress(h, HostBridge, prefix); err != nil {
			return err
		}
	}
	return errors.Join(up(h, "lo"), up(h, hostLink), up(h, HostBridge))
}

func addAddress(h *netlink.Handle, name string, prefix netip.Prefix) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	address := &netlink.Addr{
		IPNet: &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())},
		// The addresses are ours to give out; duplicate detection would cost a second.
		Flags: unix.IFA_F_NODAD,
	}
	if err := h.AddrAdd(link, address); err != nil {
		return fmt.Errorf("give %s to %s: %w", prefix, name, err)
	}
	return nil
}

// Cut takes the port off the switch. The link stays up, so that nobody at either
// end notices anything but silence.
func (p Port) Cut() error {
	return p.change("cut", func(h *netlink.Handle, link netlink.Link) error { return h.LinkSetNoMaster(link) })
}

// Heal puts the port back.
func (p Port) Heal() error {
	return p.change("heal", func(h *netlink.Handle, _ netlink.Link) error {
		return enslave(h, p.name(), switchBridge)
	})
}

func (p Port) change(what string, do func(*netlink.Handle, netlink.Link) error) error {
	err := inside(p.SwitchPID, func(h *netlink.Handle) error {
		link, err := h.LinkByName(p.name())
		if err != nil {
			return err
		}
		return do(h, link)
	})
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, p.name(), err)
	}
	return nil
}

// inside has a netlink handle in the network namespace of pid.
func inside(pid int, do func(*netlink.Handle) error) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open the network namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter the network namespace of process %d: %w", pid, err)
	}
	defer handle.Close()
	return do(handle)
}

func named(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return attrs
}

func enslave(h *netlink.Handle, port, bridge string) error {
	link, err := h.LinkByName(port)
	if err != nil {
		return fmt.Errorf("find %s: %w", port, err)
	}
	master, err := h.LinkByName(bridge)
	if err != nil {
		return fmt.Errorf("find %s: %w", bridge, err)
	}
	if err := h.LinkSetMaster(link, master); err != nil {
		return fmt.Errorf("make %s a port of %s: %w", port, bridge, err)
	}
	return nil
}

func up(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}
