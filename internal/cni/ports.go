package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// Port is a port of the host that leads to one of the container, in the form of CNI's convention (portMappings). The
// plugins' callers write it in capitals or not, which reading does not mind.
type Port struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"` // "": all addresses of the host
}

// portMappings is what the convention calls them.
const portMappings = "portMappings"

// maxPorts bounds the mappings of one attachment: a range of ports is as many mappings.
const maxPorts = 4096

func (p Port) String() string {
	return fmt.Sprintf("%s/%s", net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort)), p.Protocol)
}

func (p Port) validate() error {
	for _, n := range []int{p.HostPort, p.ContainerPort} {
		if n < 1 || n > 1<<16-1 {
			return fmt.Errorf("port %d is out of range", n)
		}
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
		return fmt.Errorf("protocol %q: want tcp, udp or sctp", p.Protocol)
	}
	if _, err := netip.ParseAddr(p.HostIP); p.HostIP != "" && err != nil {
		return fmt.Errorf("address of the host: %w", err)
	}
	return nil
}

// clashes says whether two mappings want the same port of the host.
func (p Port) clashes(o Port) bool {
	if p.HostPort != o.HostPort || p.Protocol != o.Protocol {
		return false
	}
	return p.everywhere() || o.everywhere() || p.HostIP == o.HostIP
}

func (p Port) everywhere() bool {
	ip, err := netip.ParseAddr(p.HostIP)
	return err != nil || ip.IsUnspecified()
}

// mapsPorts says whether a plugin of the network takes port mappings.
func (n *conf) mapsPorts() bool {
	return slices.ContainsFunc(n.list.Plugins, func(p *libcni.PluginConfig) bool { return p.Network.Capabilities[portMappings] })
}

// checkPorts says whether the host's ports that an attachment wants are free: of programs that listen, and of other
// containers, whose mappings no program listens for.
func (h *Host) checkPorts(n *conf, a Attachment) error {
	if len(a.Ports) == 0 {
		return nil
	}
	if !n.mapsPorts() {
		return fmt.Errorf("%w: CNI network %q has no plugin for the port mappings of the container (%v): add portmap to its configuration",
			ErrNoPorts, a.Network, a.Ports[0])
	}
	others, err := h.mapped()
	if err != nil {
		return err
	}
	for _, p := range a.Ports {
		if err := p.free(); err != nil {
			return err
		}
		for _, o := range others {
			if o.id == a.ContainerID && o.network == a.Network && o.ifName == a.Interface {
				continue // our own, half made
			}
			if p.clashes(o.port) {
				return fmt.Errorf("port %v of this host is %w by a port mapping of %s: remove that container", p, ErrInUse, o.id)
			}
		}
	}
	return nil
}

// free tries whether a program could have the port.
func (p Port) free() error {
	var err error
	where := net.JoinHostPort(p.HostIP, strconv.Itoa(p.HostPort))
	switch p.Protocol {
	case "tcp":
		var l net.Listener
		if l, err = net.Listen("tcp", where); err == nil {
			return l.Close()
		}
	case "udp":
		var c net.PacketConn
		if c, err = net.ListenPacket("udp", where); err == nil {
			return c.Close()
		}
	default:
		return nil
	}
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("port %v of this host is %w by a program that listens there: end it, see `ss -lnp`", p, ErrInUse)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("the container's port mapping %v is for an address that this host does not have: "+
			"map the port of all addresses, or give this host the address", p)
	}
	return fmt.Errorf("try port %v: %w", p, err)
}

// mapping is a port that the cache has for a container.
type mapping struct {
	id, network, ifName string
	port                Port
}

// mapped lists the mappings of all containers that the cache knows.
func (h *Host) mapped() (all []mapping, err error) {
	dir := filepath.Join(h.cacheDir, "results")
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read CNI result cache: %w", err)
	}
	for _, f := range files {
		entry, err := readCacheEntry(filepath.Join(dir, f.Name()))
		if err != nil {
			continue // attached warns of it
		}
		for _, p := range entry.ports() {
			all = append(all, mapping{entry.ContainerID, entry.NetworkName, entry.IfName, p})
		}
	}
	return all, nil
}
