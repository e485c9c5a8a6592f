package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/storage"
)

func refusal(why, remedy string) *fail.Fault {
	return &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination, policy", Why: why, Remedy: remedy}
}

const needPrivileged = "start the destination agent with --allow-privileged if it may take such containers"

func (p Policy) hooks(s *specs.Spec) error {
	h := s.Hooks
	if h == nil {
		return nil
	}
	//lint:ignore SA1019 a peer may use the deprecated kind
	prestart := h.Prestart
	if len(prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0 {
		return refusal("its specification has hooks, which would run as root on this host", "make the container without hooks; nerdctl adds some to every container")
	}
	return nil
}

func (p Policy) root(s *specs.Spec) error {
	if filepath.IsAbs(s.Root.Path) || !filepath.IsLocal(s.Root.Path) {
		return refusal(fmt.Sprintf("its root file system %q is not in its bundle", s.Root.Path), "")
	}
	if strings.Contains(s.Linux.RootfsPropagation, "shared") {
		return refusal("its mounts propagate to the host", "")
	}
	return nil
}

func (p Policy) mount(m specs.Mount) error {
	if slices.Contains(m.Options, "shared") || slices.Contains(m.Options, "rshared") {
		return refusal(fmt.Sprintf("its mount at %s propagates to the host", m.Destination), "")
	}
	bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
	switch {
	case !bind && !slices.Contains(kernelMounts, m.Type):
		return refusal(fmt.Sprintf("mount of type %q at %s", m.Type, m.Destination), "")
	case !bind:
		return nil
	}
	v := p.volumes[filepath.Clean(m.Destination)]
	switch {
	case v != nil && (v.How == storage.Carried || v.How == storage.Remade):
		return nil // into a directory that holds nothing but such files; we chose the path
	case v != nil && v.How == storage.Copied && storage.IsVolumePath(m.Source, p.namespace):
		return nil // a new volume of the engine, which shows nothing of this host
	case harmlessBind(m):
	case !p.mayBind(m.Source):
		return refusal(fmt.Sprintf("it binds %s at %s", m.Source, m.Destination),
			"allow the directory with --allow-mount at the destination agent, or bind another one with --bind at the source")
	}
	if v != nil && v.How == storage.Copied {
		return nil // it comes along
	}
	if _, err := os.Stat(m.Source); err != nil {
		return refusal(fmt.Sprintf("it binds %s at %s, which is not there", m.Source, m.Destination),
			"create it at the destination, with the contents the container expects; or send them along with --copy-bind; or bind another path with --bind")
	}
	if v != nil {
		return v.checkKind()
	}
	return nil
}

// harmlessBind: what a container on the host's network resolves names with, read-only. Engines bind these files themselves.
func harmlessBind(m specs.Mount) bool {
	return (m.Source == "/etc/hosts" || m.Source == "/etc/resolv.conf") && slices.Contains(m.Options, "ro")
}

func (p Policy) mayBind(source string) bool {
	return filepath.IsAbs(source) && within(source, p.AllowMounts)
}

func (p Policy) process(s *specs.Spec) error {
	if adj := s.Process.OOMScoreAdj; adj != nil && *adj < 0 {
		return refusal("it is protected from the kernel's out-of-memory killer", needPrivileged)
	}
	if s.Process.Scheduler != nil || s.Process.IOPriority != nil {
		return refusal("it asks for scheduling of its own", needPrivileged)
	}
	caps := s.Process.Capabilities
	if caps == nil {
		return nil
	}
	for _, set := range [][]string{caps.Bounding, caps.Effective, caps.Inheritable, caps.Permitted, caps.Ambient} {
		for _, name := range set {
			if !slices.Contains(usualCaps, name) {
				return refusal("it has the capability "+name, needPrivileged)
			}
		}
	}
	return nil
}

func (p Policy) namespaces(s *specs.Spec) error {
	own := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range s.Linux.Namespaces {
		if ns.Path != "" && ns.Type != specs.NetworkNamespace {
			return refusal(fmt.Sprintf("it joins the %s namespace %s", ns.Type, ns.Path), "")
		}
		own[ns.Type] = true
	}
	for _, t := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !own[t] && !p.AllowPrivileged {
			return refusal(fmt.Sprintf("it shares the host's %s namespace", t), needPrivileged)
		}
	}
	if own[specs.UserNamespace] || len(s.Linux.UIDMappings)+len(s.Linux.GIDMappings) > 0 {
		return refusal("it has a user namespace, which cannot be moved yet", "")
	}
	return nil
}

// device is a character device by number; minor -1 stands for all.
type device struct{ major, minor int64 }

// usualDevices are what engines let every container use (containerd pkg/oci/spec_opts.go, WithDefaultUnixDevices; runc
// specconv): null, zero, full, random, urandom, tty, console, ptmx, the terminals of devpts, and tun.
var usualDevices = []device{{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {5, 0}, {5, 1}, {5, 2}, {136, -1}, {10, 200}}

func (p Policy) devices(s *specs.Spec) error {
	if len(s.Linux.Devices) > 0 {
		return refusal("it has the device "+s.Linux.Devices[0].Path, needPrivileged)
	}
	if s.Linux.Resources == nil {
		return nil
	}
	for _, d := range s.Linux.Resources.Devices {
		// making a node is harmless when it cannot be opened
		if d.Allow && d.Access != "m" && !usualDevice(d) {
			return refusal("it may use more than the usual devices", needPrivileged)
		}
	}
	return nil
}

func usualDevice(d specs.LinuxDeviceCgroup) bool {
	if d.Type != "c" || d.Major == nil {
		return false
	}
	minor := int64(-1)
	if d.Minor != nil {
		minor = *d.Minor
	}
	return slices.ContainsFunc(usualDevices, func(u device) bool {
		return u.major == *d.Major && (u.minor == minor || u.minor == -1)
	})
}

// Files of proc and sysfs through which root in a container reaches the host. Engines hide or protect more than these
// (containerd pkg/oci/spec.go); these are common to all.
var (
	protectedPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	hiddenPaths    = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
)

// kernelFiles: without these protections root in the container is root of the host.
func (p Policy) kernelFiles(s *specs.Spec) error {
	for _, path := range protectedPaths {
		if !slices.Contains(s.Linux.ReadonlyPaths, path) {
			return refusal(path+" is not protected in it", needPrivileged)
		}
	}
	for _, path := range hiddenPaths {
		if !slices.Contains(s.Linux.MaskedPaths, path) {
			return refusal(path+" is not hidden from it", needPrivileged)
		}
	}
	for _, m := range s.Mounts {
		switch m.Type {
		case "proc":
			if filepath.Clean(m.Destination) != "/proc" {
				return refusal("it has proc mounted at "+m.Destination, needPrivileged)
			}
		case "sysfs", "cgroup", "cgroup2":
			if !slices.Contains(m.Options, "ro") {
				return refusal(m.Type+" is writable in it", needPrivileged)
			}
		}
	}
	return nil
}

// limits refuses what would let the container at the host's resources past an engine's usual control.
func (p Policy) limits(s *specs.Spec) error {
	if len(s.Linux.NetDevices) > 0 {
		return refusal("it takes network devices of the host", needPrivileged)
	}
	if s.Linux.Seccomp != nil && s.Linux.Seccomp.ListenerPath != "" {
		return refusal("its seccomp filter reports to a socket of the host", needPrivileged)
	}
	return nil
}

// profiles: a security profile has to exist here, or the restore fails late, or runs without it.
func (p Policy) profiles(s *specs.Spec) error {
	if name := s.Process.ApparmorProfile; name != "" && name != "unconfined" {
		b, err := os.ReadFile("/sys/kernel/security/apparmor/profiles")
		if err != nil || !strings.Contains("\n"+string(b), "\n"+name+" ") {
			return refusal(fmt.Sprintf("its AppArmor profile %q is not loaded", name), "load the profile at the destination")
		}
	}
	if s.Process.SelinuxLabel != "" {
		if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
			return refusal("it has a SELinux label and this host has no SELinux", "")
		}
	}
	if s.Linux.IntelRdt != nil {
		return refusal("it uses resource director classes", "")
	}
	return nil
}

// placeNetwork makes the specification's network namespace that of the description: what the two say must agree, or the
// container would end up in a namespace that nobody checked.
func placeNetwork(s *specs.Spec, n engine.Network) error {
	var found []specs.LinuxNamespace
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
			found = append(found, s.Linux.Namespaces[i])
		}
	}
	agree := false
	switch n.Mode {
	case engine.NetworkHost:
		agree = len(found) == 0 && n.NetNS == ""
	case engine.NetworkNone, engine.NetworkManaged, engine.NetworkJoined:
		agree = len(found) == 1 && found[0].Path == "" && n.NetNS == ""
	case engine.NetworkCNI:
		agree = len(found) == 1 && (found[0].Path == "") == n.Unnamed && n.NetNS != ""
	}
	if !agree {
		return refusal(fmt.Sprintf("its specification and its network mode %q do not agree", n.Mode), "")
	}
	if !n.Unnamed {
		setNetworkPath(s, n.NetNS)
	}
	return nil
}

func setNetworkPath(s *specs.Spec, path string) {
	for i := range s.Linux.Namespaces {
		if ns := &s.Linux.Namespaces[i]; ns.Type == specs.NetworkNamespace {
			ns.Path = path
		}
	}
}

// placeCgroup gives the container a cgroup of its own, named after it: /PARENT/ID, or SLICE:PREFIX:ID for systemd. Any other
// path could be the cgroup of somebody else, who would then be frozen and killed with it.
func placeCgroup(s *specs.Spec, id string) error {
	path := s.Linux.CgroupsPath
	if path == "" {
		return nil // the runtime names it after the container
	}
	if parts := strings.Split(path, ":"); len(parts) == 3 && !strings.Contains(path, "/") {
		parts[2] = id
		s.Linux.CgroupsPath = strings.Join(parts, ":")
		return nil
	}
	parent := filepath.Dir(path)
	if path != filepath.Clean(path) || parent == "/" || parent == "." || strings.Contains(path, "..") {
		return refusal(fmt.Sprintf("its cgroup path is %q", path), "")
	}
	s.Linux.CgroupsPath = filepath.Join(parent, id)
	return nil
}
