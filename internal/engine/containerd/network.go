package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/containers"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/cni"
	"migrate/internal/engine"
)

// byPath is the remedy for networks that cannot be made again.
const byPath = "make a namespace with `ip netns add`, attach it with CNI, and give it to the container by path"

// describeNetwork finds out who gave the container its network.
func (e *Engine) describeNetwork(ctx context.Context, s *subject) (engine.Network, error) {
	ns := networkNamespace(&s.spec)
	switch {
	case ns == nil:
		return engine.Network{Mode: engine.NetworkHost}, nil
	case ns.Path == "":
		return e.describeOwn(int(s.process.Pid))
	}
	if err := e.checkUnshared(ctx, s.record.ID, ns.Path); err != nil {
		return engine.Network{}, err
	}
	return e.describeCNI(ns.Path)
}

func networkNamespace(spec *specs.Spec) *specs.LinuxNamespace {
	if spec.Linux == nil {
		return nil
	}
	i := slices.IndexFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.NetworkNamespace })
	if i < 0 {
		return nil
	}
	return &spec.Linux.Namespaces[i]
}

// describeOwn describes a namespace that the runtime made. At the destination it makes an empty one, so nothing but
// loopback may be in it.
func (e *Engine) describeOwn(pid int) (engine.Network, error) {
	path := fmt.Sprintf("/proc/%d/ns/net", pid)
	links, err := cni.Links(path)
	if err != nil {
		return engine.Network{}, err
	}
	for _, link := range links {
		if !link.Dormant() {
			return engine.Network{}, fmt.Errorf("interface %s is in a network namespace that the runtime made: %w: %s",
				link.Name, engine.ErrUnsupported, byPath)
		}
	}
	sysctls, err := e.sysctls(path)
	return engine.Network{Mode: engine.NetworkNone, Sysctls: sysctls}, err
}

func (e *Engine) describeCNI(path string) (engine.Network, error) {
	if err := validNetNS(path); err != nil {
		return engine.Network{}, err
	}
	attached, err := e.cni.Attached(path)
	if errors.Is(err, cni.ErrForeign) {
		return engine.Network{}, fmt.Errorf("%w: %w: attach the container with CNI instead", err, engine.ErrUnsupported)
	} else if err != nil {
		return engine.Network{}, err
	}
	n := engine.Network{Mode: engine.NetworkCNI, NetNS: path}
	for _, a := range attached {
		n.Attachments = append(n.Attachments, plainAttachment(a))
	}
	n.Sysctls, err = e.sysctls(path)
	return n, err
}

func (e *Engine) sysctls(path string) (map[string]string, error) {
	base, err := e.baseline()
	if err != nil {
		return nil, err
	}
	return base.Sysctls(path)
}

// checkUnshared refuses a namespace that other containers live in: it would be taken from under them.
func (e *Engine) checkUnshared(ctx context.Context, id, path string) error {
	all, err := e.client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, other := range all {
		if other.ID != id && netnsPath(other) == filepath.Clean(path) {
			return fmt.Errorf("network namespace %s is shared with container %q: %w: give each its own, or remove the other",
				path, other.ID, engine.ErrUnsupported)
		}
	}
	return nil
}

// netnsPath is the path of the namespace that a container's specification names, "" without one.
func netnsPath(r containers.Container) string {
	var spec specs.Spec
	if r.Spec == nil || json.Unmarshal(r.Spec.GetValue(), &spec) != nil {
		return ""
	}
	if ns := networkNamespace(&spec); ns != nil && ns.Path != "" {
		return filepath.Clean(ns.Path)
	}
	return ""
}

// plainAttachment is what crosses the wire.
func plainAttachment(a cni.Attachment) engine.Attachment {
	plain := engine.Attachment{
		Network: a.Network, ContainerID: a.ContainerID, Interface: a.Interface, MAC: a.MAC, IPs: a.IPs, MTU: a.MTU,
	}
	for _, p := range a.Ports {
		plain.Ports = append(plain.Ports, engine.Port{Host: p.HostPort, Container: p.ContainerPort, Protocol: p.Protocol, HostIP: p.HostIP})
	}
	return plain
}

// hostAttachment is what package cni works with.
func hostAttachment(a engine.Attachment) cni.Attachment {
	host := cni.Attachment{
		Network: a.Network, ContainerID: a.ContainerID, Interface: a.Interface, MAC: a.MAC, IPs: a.IPs, MTU: a.MTU, Fresh: a.Fresh,
	}
	for _, p := range a.Ports {
		host.Ports = append(host.Ports, cni.Port{HostPort: p.Host, ContainerPort: p.Container, Protocol: p.Protocol, HostIP: p.HostIP})
	}
	return host
}
