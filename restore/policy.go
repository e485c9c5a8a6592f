package restore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/layers"
)

// Policy is what a destination lets in. The zero value takes ordinary containers: no binds from the host, no devices of
// their own, no specification with capabilities beyond an engine's usual ones, and no namespaces of the host but the
// network's.
//
// Check looks at the specification, CheckImages at the credentials in the image set, which are what CRIU restores.
type Policy struct {
	AllowPrivileged bool     // capabilities, devices and host namespaces without limit
	AllowMounts     []string // directories of this host from which containers may bind
	AllowLogs       []string // directories to which a container's output may be appended; nil: /var/log
	AllowLoggers    []string // programs of this host, by path, that may be started to take a container's output, with arguments of the peer's choice
	Layers          layers.Limits

	volumes   map[string]*volume // of the container that is being checked, by where it has them
	namespace string             // of that container
}

// criuAnnotation names the CRIU configuration of a container (runc, libcontainer/criu_linux.go). It is a root command
// in disguise, since the configuration names an action script: a peer's value is always replaced by ours.
const criuAnnotation = "org.criu.config"

// annotations that may pass, by prefix: what engines and their users keep there for themselves. Others could
// steer the runtime, device injection or a shim, and are dropped.
var annotations = []string{"org.opencontainers.image.", "io.containerd.image.", "nerdctl/", "com.docker.", "user."}

// plainLabels drops labels whose value is a program to run: clients start containers with what they find there.
func plainLabels(labels map[string]string) map[string]string {
	kept := map[string]string{}
	for k, v := range labels {
		if !strings.Contains(v, "binary:") {
			kept[k] = v
		}
	}
	return kept
}

// usualCaps are the capabilities that containerd and Docker give a container that asks for none
// (containerd pkg/oci/spec.go).
var usualCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// kernelMounts are file system types that bring nothing of this host into the container.
var kernelMounts = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

// Check holds a container's specification against the policy and returns the one to register: with this migration's CRIU
// configuration, and without annotations that are not on the list. c is changed in the same way, but for the CRIU
// configuration and the path of a network namespace that is to have none, so that it is what the record holds in the end.
func (p Policy) Check(c *engine.Container, criuConfig string) (json.RawMessage, error) {
	return p.check(c, criuConfig, nil)
}

// check is Check of a container that brings content of volumes along.
func (p Policy) check(c *engine.Container, criuConfig string, volumes []*volume) (json.RawMessage, error) {
	p = p.with(c, volumes)
	var s specs.Spec
	if err := json.Unmarshal(c.Spec, &s); err != nil {
		return nil, fmt.Errorf("decode the container's specification: %w", err)
	}
	if s.Linux == nil || s.Process == nil || s.Root == nil {
		return nil, refusal("the specification is not of a Linux container", "")
	}
	if refusals := p.refusals(&s); len(refusals) > 0 {
		return nil, refusals[0]
	}
	if err := placeNetwork(&s, c.Network); err != nil {
		return nil, err
	}
	if err := placeCgroup(&s, c.ID); err != nil {
		return nil, err
	}
	kept := map[string]string{}
	for k, v := range s.Annotations {
		if slices.ContainsFunc(annotations, func(prefix string) bool { return strings.HasPrefix(k, prefix) }) {
			kept[k] = v
		}
	}
	s.Annotations = kept
	c.Stdio = p.stdio(c.Stdio)
	c.Labels = plainLabels(c.Labels)
	var err error
	if c.Spec, err = json.Marshal(s); err != nil {
		return nil, fmt.Errorf("encode the container's specification: %w", err)
	}
	s.Annotations[criuAnnotation] = criuConfig
	if c.Network.Unnamed {
		setNetworkPath(&s, c.Network.NetNS)
	}
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the container's specification: %w", err)
	}
	return spec, nil
}

// with is the policy for a container that brings content of volumes along.
func (p Policy) with(c *engine.Container, volumes []*volume) Policy {
	p.volumes, p.namespace = map[string]*volume{}, c.Namespace
	for _, v := range volumes {
		p.volumes[v.Mount] = v
	}
	return p
}

// allRefusals lists all that keeps a container out, of which Check names the first.
func (p Policy) allRefusals(c *engine.Container, volumes []*volume) ([]*fail.Fault, error) {
	var s specs.Spec
	if err := json.Unmarshal(c.Spec, &s); err != nil {
		return nil, fmt.Errorf("decode the container's specification: %w", err)
	}
	if s.Linux == nil || s.Process == nil || s.Root == nil {
		return []*fail.Fault{refusal("the specification is not of a Linux container", "")}, nil
	}
	return p.with(c, volumes).refusals(&s), nil
}

func (p Policy) refusals(s *specs.Spec) (all []*fail.Fault) {
	checks := []func(*specs.Spec) error{p.hooks, p.root}
	for _, m := range s.Mounts {
		checks = append(checks, func(*specs.Spec) error { return p.mount(m) })
	}
	checks = append(checks, p.namespaces, p.profiles)
	if !p.AllowPrivileged {
		checks = append(checks, p.process, p.devices, p.kernelFiles, p.limits)
	}
	for _, check := range checks {
		if err := check(s); err != nil {
			all = append(all, fail.As(err, fail.Refused, "take in the container"))
		}
	}
	return all
}
