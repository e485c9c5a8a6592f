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
const byPath = "let ctr attach it (`ctr run --cni`), or make a namespace with `ip netns add`, attach it with CNI, and give it to the container by path"

// unnamedDir is where a namespace without a path has one while its container moves.
const unnamedDir = "/var/lib/migrate/netns"

// describeNetwork finds out who gave the container its network.
func (e *Engine) describeNetwork(ctx context.Context, s *subject) (engine.Network, error) {
	ns := networkNamespace(&s.spec)
	switch {
	case ns == nil:
		return engine.Network{Mode: engine.NetworkHost}, nil
	case ns.Path == "":
		return e.describeOwn(ctx, s)
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

// describeOwn describes a namespace that the runtime made. Either nothing but loopback is in it, or what CNI has put there since,
// as `ctr run --cni` lets it do.
func (e *Engine) describeOwn(ctx context.Context, s *subject) (engine.Network, error) {
	path := procNetNS(int(s.process.Pid))
	owner := e.cniID(s.record.ID)
	attached, err := e.cni.AttachedAs(owner, path)
	if errors.Is(err, cni.ErrForeign) {
		return engine.Network{}, &engine.Advice{Remedy: byPath, Err: fmt.Errorf(
			"the runtime made its network namespace, and CNI has no result of a container %q for what is in it: %w: %w", owner, err, engine.ErrUnsupported)}
	} else if err != nil {
		return engine.Network{}, err
	}
	n := engine.Network{Mode: engine.NetworkNone}
	if len(attached) > 0 {
		if err := e.checkUnshared(ctx, s.record.ID, path); err != nil {
			return engine.Network{}, err
		}
		n = engine.Network{Mode: engine.NetworkCNI, NetNS: e.unnamedPath(s.record.ID), Unnamed: true, Attachments: plainAttachments(attached)}
	}
	n.Sysctls, err = e.sysctls(path)
	return n, err
}

// procNetNS is where a process has its network namespace.
func procNetNS(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// unnamedPath is that of a container's namespace while it moves.
func (e *Engine) unnamedPath(id string) string { return filepath.Join(unnamedDir, e.cniID(id)) }

// cniID is how ctr calls a container when it talks to CNI (containerd, cmd/ctr/commands, FullID).
func (e *Engine) cniID(id string) string { return e.opts.Namespace + "-" + id }

func (e *Engine) describeCNI(path string) (engine.Network, error) {
	if err := validNetNS(path); err != nil {
		return engine.Network{}, err
	}
	attached, err := e.cni.Attached(path)
	if errors.Is(err, cni.ErrForeign) {
		return engine.Network{}, &engine.Advice{Remedy: "attach the container with CNI instead", Err: fmt.Errorf("%w: %w", err, engine.ErrUnsupported)}
	} else if err != nil {
		return engine.Network{}, err
	}
	n := engine.Network{Mode: engine.NetworkCNI, NetNS: path, Attachments: plainAttachments(attached)}
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

func plainAttachments(attached []cni.Attachment) (all []engine.Attachment) {
	for _, a := range attached {
		all = append(all, plainAttachment(a))
	}
	return all
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
