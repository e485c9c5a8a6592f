package docker

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// describeNetwork finds out how the daemon connects the container.
func (e *Engine) describeNetwork(ctx context.Context, r *container.InspectResponse) (engine.Network, error) {
	switch mode := r.HostConfig.NetworkMode; {
	case mode.IsHost():
		return engine.Network{Mode: engine.NetworkHost}, nil
	case mode.IsNone():
		return engine.Network{Mode: engine.NetworkNone}, nil
	case mode.IsContainer():
		owner, err := e.look(ctx, mode.ConnectedContainer())
		if err != nil {
			return engine.Network{}, fmt.Errorf("look up the container that owns the network: %w", err)
		}
		return engine.Network{Mode: engine.NetworkJoined, Owner: nameOf(owner)}, nil
	}
	if err := e.checkAlone(ctx, r); err != nil {
		return engine.Network{}, err
	}
	n := engine.Network{Mode: engine.NetworkManaged}
	for _, name := range slices.Sorted(maps.Keys(r.NetworkSettings.Networks)) {
		ep := r.NetworkSettings.Networks[name]
		a := engine.Attachment{Network: name, ContainerID: nameOf(r), MAC: ep.MacAddress.String()}
		if ep.IPAddress.IsValid() {
			a.IPs = append(a.IPs, netip.PrefixFrom(ep.IPAddress, ep.IPPrefixLen).String())
		}
		if ep.GlobalIPv6Address.IsValid() {
			a.IPs = append(a.IPs, netip.PrefixFrom(ep.GlobalIPv6Address, ep.GlobalIPv6PrefixLen).String())
		}
		n.Attachments = append(n.Attachments, a)
		n.Loose = n.Loose || predefined(name)
	}
	return n, nil
}

// predefined is the network in which the daemon gives out addresses as it likes, and takes no wishes
// (moby, daemon/container_operations.go).
func predefined(name string) bool {
	return name == network.NetworkBridge || name == network.NetworkDefault
}

// checkAlone refuses a network namespace that other containers have joined: it would be taken from under them.
func (e *Engine) checkAlone(ctx context.Context, r *container.InspectResponse) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	all, err := e.api.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, other := range all.Items {
		if id, ok := strings.CutPrefix(other.HostConfig.NetworkMode, "container:"); ok && (id == r.ID || id == nameOf(r)) {
			return fmt.Errorf("its network is shared with container %q: %w: stop that one first", strings.TrimPrefix(strings.Join(other.Names, " "), "/"), engine.ErrUnsupported)
		}
	}
	return nil
}

// SetupNetwork implements engine.Engine. The daemon makes networks itself, while it starts the container.
func (e *Engine) SetupNetwork(context.Context, *engine.Container, func(string) error) (engine.Undo, error) {
	return local.Nothing, nil
}

// endpoints are what the daemon knows of the container's connections beside their addresses.
func endpoints(r *container.InspectResponse, n engine.Network) map[string]*network.EndpointSettings {
	if n.Mode != engine.NetworkManaged {
		return nil
	}
	out := map[string]*network.EndpointSettings{}
	for name, ep := range r.NetworkSettings.Networks {
		out[name] = &network.EndpointSettings{
			Links: ep.Links, DriverOpts: ep.DriverOpts, GwPriority: ep.GwPriority,
			// the daemon adds the short id of the container that it makes
			Aliases: slices.DeleteFunc(slices.Clone(ep.Aliases), func(a string) bool { return a != "" && strings.HasPrefix(r.ID, a) }),
		}
	}
	return out
}

// wishes are endpoints with the addresses of the description, by which this host's daemon connects the container as it was.
func wishes(n engine.Network, known map[string]*network.EndpointSettings) (*network.NetworkingConfig, error) {
	if n.Mode != engine.NetworkManaged {
		return nil, nil
	}
	out := map[string]*network.EndpointSettings{}
	for _, a := range n.Attachments {
		ep := &network.EndpointSettings{}
		if k := known[a.Network]; k != nil {
			ep.Aliases, ep.Links, ep.GwPriority = k.Aliases, k.Links, k.GwPriority
		}
		mac, err := net.ParseMAC(a.MAC)
		if err != nil {
			return nil, fmt.Errorf("network %q: %w", a.Network, err)
		}
		ep.MacAddress = network.HardwareAddr(mac)
		if !predefined(a.Network) {
			if ep.IPAMConfig, err = addresses(a); err != nil {
				return nil, err
			}
		}
		out[a.Network] = ep
	}
	return &network.NetworkingConfig{EndpointsConfig: out}, nil
}

func addresses(a engine.Attachment) (*network.EndpointIPAMConfig, error) {
	var wish network.EndpointIPAMConfig
	for _, ip := range a.IPs {
		p, err := netip.ParsePrefix(ip)
		if err != nil {
			return nil, fmt.Errorf("address of network %q: %w", a.Network, err)
		}
		if p.Addr().Is4() {
			wish.IPv4Address = p.Addr()
		} else {
			wish.IPv6Address = p.Addr()
		}
	}
	return &wish, nil
}

// checkNetworks says whether this host's daemon can connect the container as it was.
func (e *Engine) checkNetworks(ctx context.Context, c *engine.Container) error {
	if c.Network.Mode == engine.NetworkJoined {
		return e.checkOwner(ctx, c.Network.Owner)
	}
	for _, a := range c.Network.Attachments {
		if err := e.checkAttachment(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) checkOwner(ctx context.Context, name string) error {
	if err := validName(name); err != nil {
		return err
	}
	owner, err := e.look(ctx, name)
	if err == nil {
		err = checkRunning(name, status(owner.State))
	}
	if err != nil {
		return fmt.Errorf("the container uses the network of container %q, which has to run here, too: %w", name, err)
	}
	return nil
}

func (e *Engine) checkAttachment(ctx context.Context, a engine.Attachment) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	res, err := e.api.NetworkInspect(ctx, a.Network, client.NetworkInspectOptions{})
	if err != nil {
		return fmt.Errorf("network %q of Docker: %w: make it with `docker network create`, with the source's subnet, on the same segment", a.Network, err)
	}
	if predefined(a.Network) {
		return nil
	}
	for _, ip := range a.IPs {
		p, err := netip.ParsePrefix(ip)
		if err != nil {
			return fmt.Errorf("address %q of network %q: %w", ip, a.Network, err)
		}
		inside := slices.ContainsFunc(res.Network.IPAM.Config, func(c network.IPAMConfig) bool { return c.Subnet.Contains(p.Addr()) })
		if !inside {
			return fmt.Errorf("address %s is not in Docker network %q of this host: make the network with the source's subnet: %w", p.Addr(), a.Network, engine.ErrUnsupported)
		}
		for _, ep := range res.Network.Containers {
			if ep.IPv4Address.Addr() == p.Addr() || ep.IPv6Address.Addr() == p.Addr() {
				return fmt.Errorf("address %s of Docker network %q is %w as that of container %q: remove that one", p.Addr(), a.Network, engine.ErrExists, ep.Name)
			}
		}
	}
	return nil
}
