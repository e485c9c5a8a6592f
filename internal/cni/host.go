package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// Check says whether this host can give an attachment: the network exists, its plugins are installed, and its addresses
// and ports are free.
func (h *Host) Check(a Attachment) error {
	if err := a.Validate(); err != nil {
		return err
	}
	n, err := h.network(a.Network)
	if err != nil {
		return err
	}
	if err := h.checkPlugins(n); err != nil {
		return err
	}
	for _, dir := range n.dataDirs() {
		for _, ip := range a.addresses() {
			who, err := holder(dir, ip)
			if err != nil {
				return err
			}
			if who != "" {
				return fmt.Errorf("address %s of network %q is %w by %s: remove that container, or the file %s/%s if it is gone",
					ip, a.Network, ErrInUse, who, dir, ip)
			}
		}
	}
	return h.checkPorts(n, a)
}

// Attach puts the attachment into the namespace at path, with its addresses, and reads back that it is so.
func (h *Host) Attach(ctx context.Context, path string, a Attachment) error {
	if err := a.Validate(); err != nil {
		return err
	}
	n, err := h.network(a.Network)
	if err != nil {
		return err
	}
	// once more: a plugin maps a port whoever has it
	if err := h.checkPorts(n, a); err != nil {
		return err
	}
	list, err := n.withAddresses(a.addresses(), a.MAC)
	if err != nil {
		return err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	began := time.Now()
	if _, err := h.lib.AddNetworkList(ctx, list, a.runtimeConf(path)); err != nil {
		return fmt.Errorf("attach %s to CNI network %q: %w", a.Interface, a.Network, err)
	}
	h.log.Debug("CNI network attached", "network", a.Network, "interface", a.Interface, "took", time.Since(began))
	if err := settle(path, a); err != nil {
		return err
	}
	return verify(path, a)
}

// Detach takes the attachment back, its reservation of addresses included. It is not an error that there is none, or
// that the namespace is gone.
func (h *Host) Detach(ctx context.Context, path string, a Attachment) error {
	n, err := h.network(a.Network)
	if errors.Is(err, ErrUnknownNetwork) {
		return fmt.Errorf("detach %s: %w", a.Interface, err)
	} else if err != nil {
		return err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	if !IsNamespace(path) {
		path = "" // CNI's way to say that only what is outside the namespace is left
	}
	list, err := n.withAddresses(a.addresses(), a.MAC)
	if err != nil {
		return err
	}
	if err := h.lib.DelNetworkList(ctx, list, a.runtimeConf(path)); err != nil {
		return fmt.Errorf("detach %s from CNI network %q: %w", a.Interface, a.Network, err)
	}
	return nil
}

// addresses are the IPs without prefix lengths: the network's configuration has those.
func (a Attachment) addresses() []string {
	var out []string
	for _, ip := range a.IPs {
		if p, err := netip.ParsePrefix(ip); err == nil {
			out = append(out, p.Addr().String())
		}
	}
	return out
}

// runtimeConf asks for the addresses in both ways that runtimes have; withAddresses adds the third. Which of them a
// plugin reads differs, and none minds seeing the same address twice.
func (a Attachment) runtimeConf(path string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: a.ContainerID, NetNS: path, IfName: a.Interface,
		Args:           [][2]string{{"IgnoreUnknown", "1"}},
		CapabilityArgs: map[string]any{},
	}
	if len(a.IPs) > 0 {
		rt.CapabilityArgs["ips"] = a.IPs
	}
	if len(a.IPs) == 1 { // CNI_ARGS has room for one
		rt.Args = append(rt.Args, [2]string{"IP", a.addresses()[0]})
	}
	if a.MAC != "" {
		rt.CapabilityArgs["mac"] = a.MAC
		rt.Args = append(rt.Args, [2]string{"MAC", a.MAC})
	}
	if len(a.Ports) > 0 {
		rt.CapabilityArgs[portMappings] = a.Ports
	}
	return rt
}
