package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// dumpAttempts bounds how often a listing is asked for again that changed while the kernel gave it.
const dumpAttempts = 5

// Interface is a network interface of a container, loopback excepted.
type Interface struct {
	Index int
	Name  string
	MAC   net.HardwareAddr
	IPs   []netip.Prefix // each address with the length of its network
	MTU   int
	Up    bool

	noARP bool // it resolves no neighbours, so there is nothing to announce on it
}

// Interfaces lists the interfaces of a namespace, loopback excepted.
func Interfaces(netns string) ([]Interface, error) {
	var list []Interface
	err := Do(netns, func() (err error) {
		list, err = interfaces()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list interfaces of %s: %w", netns, err)
	}
	return list, nil
}

// interfaces lists those of the calling thread's namespace.
func interfaces() ([]Interface, error) {
	list, err := links()
	if err != nil || len(list) == 0 {
		return nil, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	addAddresses(list, addrs)
	return list, nil
}

// links lists the interfaces of the calling thread's namespace without their addresses.
func links() ([]Interface, error) {
	all, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var list []Interface
	for _, link := range all {
		a := link.Attrs()
		if a.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		list = append(list, Interface{
			Index: a.Index,
			Name:  a.Name,
			MAC:   a.HardwareAddr,
			MTU:   a.MTU,
			Up:    a.RawFlags&unix.IFF_UP != 0,
			noARP: a.RawFlags&unix.IFF_NOARP != 0,
		})
	}
	return list, nil
}

func addAddresses(list []Interface, addrs []netlink.Addr) {
	byIndex := make(map[int]*Interface, len(list))
	for i := range list {
		byIndex[list[i].Index] = &list[i]
	}
	for _, a := range addrs {
		itf, prefix := byIndex[a.LinkIndex], toPrefix(a.IPNet)
		if itf != nil && prefix.IsValid() {
			itf.IPs = append(itf.IPs, prefix)
		}
	}
}

func toPrefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

// dump asks again while the kernel says that the listing changed under way.
func dump[T any](list func() ([]T, error)) (result []T, err error) {
	for range dumpAttempts {
		result, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return result, err
}
