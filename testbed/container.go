package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"migrate/testbed/internal/child"
)

// A Network is how a container is connected.
type Network string

// The networks that a container can have.
const (
	NetworkNone Network = "none" // a namespace with nothing but lo
	NetworkHost Network = "host" // the host's
	NetworkCNI  Network = "cni"  // a namespace at /run/netns/ID, on the segment of all hosts
)

// A ContainerSpec says what RunContainer is to run.
type ContainerSpec struct {
	ID      string
	Image   string   // "testbed/redis:latest"
	Args    []string // default: the image's
	Network Network  // default: none
	IP      string   // with NetworkCNI: the IPv4 address it must get, default any; the IPv6 address follows from it
	MAC     string   // with NetworkCNI: likewise
	Confs   []string // with NetworkCNI: files of the networks, one an interface; default: the common one
	Ports   []string // with NetworkCNI: of the host, HOST:CONTAINER/PROTOCOL, as the portmap plugin maps them
	Log     string   // file of the host for its output; default /var/log/ID.log
	Flags   []string // further flags of ctr run
}

// A Container is a running container of a host.
type Container struct {
	ID    string
	Addr  netip.Addr // IPv4, what others reach it at; not valid without a network
	Addr6 netip.Addr // IPv6, likewise

	host  *Host
	netns string   // path of the network namespace that it was given; empty: none
	confs []string // of its networks
	ports []string // that are mapped
}

// netnsDir is where a host has named network namespaces, see ip-netns(8).
const netnsDir = "/run/netns/"

// cleanUpTimeout bounds what is done after a failure or against the caller's will.
const cleanUpTimeout = 20 * time.Second

// RunContainer starts a container in the host's containerd, in the namespace
// "default", as a user would with ctr.
func (h *Host) RunContainer(ctx context.Context, spec ContainerSpec) (*Container, error) {
	c, err := h.connect(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("run container %s: %w", spec.ID, err)
	}
	if _, err := h.run(ctx, c.runCommand(spec)...); err != nil {
		return nil, errors.Join(fmt.Errorf("run container %s: %w", spec.ID, err), c.Remove(context.WithoutCancel(ctx)))
	}
	return c, nil
}

// connect prepares what the container needs of the network.
func (h *Host) connect(ctx context.Context, spec ContainerSpec) (*Container, error) {
	c := &Container{ID: spec.ID, host: h}
	switch spec.Network {
	case NetworkNone, "":
		return c, nil
	case NetworkHost:
		c.Addr, c.Addr6 = h.Addr(), h.Addr6()
		return c, nil
	case NetworkCNI:
		return c, c.attach(ctx, spec)
	}
	return nil, fmt.Errorf("network %q: known are %s, %s and %s", spec.Network, NetworkNone, NetworkHost, NetworkCNI)
}

func (c *Container) attach(ctx context.Context, spec ContainerSpec) error {
	if _, err := c.host.run(ctx, "ip", "netns", "add", c.ID); err != nil {
		return err
	}
	c.netns, c.confs, c.ports = netnsDir+c.ID, spec.Confs, spec.Ports
	attachment := child.Attachment{ID: c.ID, Netns: c.netns, MAC: spec.MAC, Confs: spec.Confs, Ports: spec.Ports}
	var err error
	if attachment.IPs, err = c.host.addresses(spec.IP); err == nil {
		var printed string
		if printed, err = c.host.run(ctx, child.AttachCommand(attachment)...); err == nil {
			err = c.setAddresses(strings.Fields(printed))
		}
	}
	if err != nil {
		return errors.Join(err, c.detach(context.WithoutCancel(ctx)))
	}
	return nil
}

// addresses are those that a container must get for which one was asked for, if any was.
func (h *Host) addresses(ip string) ([]netip.Addr, error) {
	if ip == "" {
		return nil, nil
	}
	v4, err := netip.ParseAddr(ip)
	if err != nil {
		return nil, err
	}
	if !v4.Is4() {
		return nil, fmt.Errorf("%s is no IPv4 address", ip)
	}
	return []netip.Addr{v4, twinV6(h.bed.state.Network, v4)}, nil
}

func (c *Container) setAddresses(given []string) error {
	for _, text := range given {
		address, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		if address.Is4() {
			c.Addr = address
		} else {
			c.Addr6 = address
		}
	}
	if !c.Addr.IsValid() || !c.Addr6.IsValid() {
		return fmt.Errorf("it got the addresses %v, not one of each version", given)
	}
	return nil
}

func (c *Container) runCommand(spec ContainerSpec) []string {
	argv := []string{"ctr", "run", "--detach", "--log-uri", "file://" + c.logPath(spec)}
	switch {
	case c.netns != "":
		argv = append(argv, "--with-ns", "network:"+c.netns)
	case spec.Network == NetworkHost:
		argv = append(argv, "--net-host")
	}
	argv = append(argv, spec.Flags...)
	argv = append(argv, spec.Image, spec.ID)
	return append(argv, spec.Args...)
}

func (c *Container) logPath(spec ContainerSpec) string {
	if spec.Log != "" {
		return spec.Log
	}
	return "/var/log/" + c.ID + ".log"
}

// Remove kills the container and removes it with its network. What is gone
// already is no error.
func (c *Container) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTimeout)
	defer cancel()
	listed, err := c.host.run(ctx, "ctr", "containers", "list", "--quiet", "id=="+c.ID)
	if err == nil && listed != "" {
		_, err = c.host.run(ctx, "sh", "-c", removeScript, "sh", c.ID)
	}
	if err := errors.Join(err, c.detach(ctx)); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	return nil
}

// RemoveContainer removes a container of the host's namespace "default", whoever
// started it, like [Container.Remove].
func (h *Host) RemoveContainer(ctx context.Context, id string) error {
	c := &Container{ID: id, host: h}
	if _, err := os.Stat(h.Path(netnsDir + id)); err == nil {
		c.netns = netnsDir + id
	}
	return c.Remove(ctx)
}

// removeScript fails if the container is left. A container without a task is
// normal, after a migration for example.
const removeScript = `ctr tasks delete --force "$1" >/dev/null 2>&1; exec ctr containers delete "$1"`

func (c *Container) detach(ctx context.Context) error {
	if c.netns == "" {
		return nil
	}
	_, err := c.host.run(ctx, child.DetachCommand(child.Attachment{ID: c.ID, Netns: c.netns, Confs: c.confs, Ports: c.ports})...)
	_, errNetns := c.host.run(ctx, "ip", "netns", "delete", c.ID)
	if err := errors.Join(err, errNetns); err != nil {
		return err
	}
	c.netns = ""
	return nil
}
