package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
	"migrate/internal/shim/sign"
)

// names as the daemon takes them (moby, daemon/names/names.go).
var names = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$`)

func validName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("container name %q is not one that Docker takes", name)
	}
	return nil
}

// logDrivers keep output on this host. Others send it to where a peer says.
var logDrivers = []string{"", "json-file", "local", "journald", "none"}

// safeHostConfig takes from a peer's host configuration what says how the container is run. What touches this host must be in the
// specification, too, which the caller has checked: binds, capabilities. Everything that is not named here stays behind.
func safeHostConfig(h *container.HostConfig, s *specs.Spec) (*container.HostConfig, error) {
	if !slices.Contains(logDrivers, h.LogConfig.Type) {
		return nil, fmt.Errorf("log driver %q: %w: only %s keep output here", h.LogConfig.Type, engine.ErrUnsupported, strings.Join(logDrivers[1:], ", "))
	}
	for _, opt := range h.SecurityOpt {
		if !strings.HasPrefix(opt, "no-new-privileges") {
			return nil, fmt.Errorf("security option %q: %w: make the container without it", opt, engine.ErrUnsupported)
		}
	}
	if h.OomScoreAdj < 0 {
		return nil, fmt.Errorf("it is protected from the kernel's out-of-memory killer: %w", engine.ErrUnsupported)
	}
	if err := checkCaps(h.CapAdd, s); err != nil {
		return nil, err
	}
	if err := checkPaths(h, s); err != nil {
		return nil, err
	}
	mounts, err := safeMounts(h, s)
	if err != nil {
		return nil, err
	}
	out := &container.HostConfig{
		Mounts: mounts, LogConfig: container.LogConfig{Type: h.LogConfig.Type, Config: safeLogConfig(h.LogConfig.Config)},
		NetworkMode: h.NetworkMode, PortBindings: h.PortBindings, PublishAllPorts: h.PublishAllPorts, AutoRemove: h.AutoRemove,
		ConsoleSize: h.ConsoleSize, CapAdd: h.CapAdd, CapDrop: h.CapDrop, CgroupnsMode: h.CgroupnsMode,
		DNS: h.DNS, DNSOptions: h.DNSOptions, DNSSearch: h.DNSSearch, ExtraHosts: h.ExtraHosts, GroupAdd: h.GroupAdd,
		IpcMode: h.IpcMode, OomScoreAdj: h.OomScoreAdj, ReadonlyRootfs: h.ReadonlyRootfs, SecurityOpt: h.SecurityOpt,
		Tmpfs: h.Tmpfs, ShmSize: h.ShmSize, Sysctls: h.Sysctls, Init: h.Init, Annotations: map[string]string{},
		Resources: container.Resources{
			CPUShares: h.CPUShares, Memory: h.Memory, NanoCPUs: h.NanoCPUs, BlkioWeight: h.BlkioWeight, CPUPeriod: h.CPUPeriod, CPUQuota: h.CPUQuota,
			CpusetCpus: h.CpusetCpus, CpusetMems: h.CpusetMems, MemoryReservation: h.MemoryReservation, MemorySwap: h.MemorySwap,
			MemorySwappiness: h.MemorySwappiness, OomKillDisable: h.OomKillDisable, PidsLimit: h.PidsLimit, Ulimits: h.Ulimits,
		},
	}
	if !slices.Contains([]container.IpcMode{"", container.IPCModePrivate, container.IPCModeNone}, h.IpcMode) {
		return nil, fmt.Errorf("IPC mode %q: %w", h.IpcMode, engine.ErrUnsupported)
	}
	if h.Runtime == sign.Name { // others are what the daemon chooses
		out.Runtime = h.Runtime
	}
	return out, nil
}

// safeLogConfig leaves out options that would name paths or hosts.
func safeLogConfig(theirs map[string]string) map[string]string {
	ours := map[string]string{}
	for _, key := range []string{"max-size", "max-file", "compress", "tag", "labels", "env", "mode", "max-buffer-size"} {
		if v, ok := theirs[key]; ok {
			ours[key] = v
		}
	}
	return ours
}

func checkCaps(add []string, s *specs.Spec) error {
	for _, name := range add {
		name = strings.ToUpper(name)
		if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if s.Process.Capabilities == nil || !slices.Contains(s.Process.Capabilities.Bounding, name) {
			return fmt.Errorf("capability %s: %w: it is not in the container's specification", name, engine.ErrUnsupported)
		}
	}
	return nil
}

// checkPaths refuses a container that asks for fewer protected paths than its specification has.
func checkPaths(h *container.HostConfig, s *specs.Spec) error {
	has := func(list, all []string) bool {
		return list == nil || !slices.ContainsFunc(all, func(p string) bool { return !slices.Contains(list, p) })
	}
	if !has(h.MaskedPaths, s.Linux.MaskedPaths) || !has(h.ReadonlyPaths, s.Linux.ReadonlyPaths) {
		return fmt.Errorf("its protected paths differ from those of its specification: %w", engine.ErrUnsupported)
	}
	return nil
}

// safeMounts are the mounts of the host configuration whose sources are those of the checked specification.
func safeMounts(h *container.HostConfig, s *specs.Spec) ([]mount.Mount, error) {
	asked := map[string]mount.Mount{}
	for _, m := range h.Mounts {
		asked[filepath.Clean(m.Target)] = m
	}
	var out []mount.Mount
	for _, m := range s.Mounts {
		if m.Type != "bind" {
			continue
		}
		ours := mount.Mount{Type: mount.TypeBind, Source: m.Source, Target: m.Destination, ReadOnly: slices.Contains(m.Options, "ro")}
		if name, ok := volumeOf(m.Source); ok {
			ours.Type, ours.Source = mount.TypeVolume, name
			// its content comes from the source, not from the image
			ours.VolumeOptions = &mount.VolumeOptions{NoCopy: true}
		} else {
			ours.BindOptions = &mount.BindOptions{Propagation: mount.PropagationRPrivate}
		}
		out = append(out, ours)
	}
	for target, m := range asked {
		if m.Type == mount.TypeTmpfs {
			out = append(out, mount.Mount{Type: mount.TypeTmpfs, Target: target, ReadOnly: m.ReadOnly, TmpfsOptions: m.TmpfsOptions})
		} else if m.Type != mount.TypeBind && m.Type != mount.TypeVolume {
			return nil, fmt.Errorf("mount of type %q at %s: %w", m.Type, target, engine.ErrUnsupported)
		}
	}
	slices.SortFunc(out, func(a, b mount.Mount) int { return strings.Compare(a.Target, b.Target) })
	return out, nil
}

// bindLater has the daemon look for the sources of binds that are not there yet, files that the peer sends, only when it starts the container: of mounts
// given in the one way it wants to see them when it makes the container, in the other it does not.
func bindLater(h *container.HostConfig) error {
	var there []mount.Mount
	for _, m := range h.Mounts {
		if _, err := os.Lstat(m.Source); m.Type != mount.TypeBind || !errors.Is(err, fs.ErrNotExist) {
			there = append(there, m)
			continue
		}
		if strings.Contains(m.Source+m.Target, ":") {
			return fmt.Errorf("bind %s at %s: %w: a path with a colon", m.Source, m.Target, engine.ErrUnsupported)
		}
		options := string(m.BindOptions.Propagation)
		if m.ReadOnly {
			options += ",ro"
		}
		h.Binds = append(h.Binds, m.Source+":"+m.Target+":"+options)
	}
	h.Mounts = there
	return nil
}

// volumePath is where the local volume driver keeps a named volume.
var volumePath = regexp.MustCompile(`^/var/lib/docker/volumes/([a-zA-Z0-9][a-zA-Z0-9_.-]*)/_data$`)

func volumeOf(path string) (string, bool) {
	if m := volumePath.FindStringSubmatch(path); m != nil {
		return m[1], true
	}
	return "", false
}

// decodeSpec reads the specification that the caller has checked.
func decodeSpec(raw json.RawMessage) (*specs.Spec, error) {
	var s specs.Spec
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("decode the container's specification: %w", err)
	}
	if s.Process == nil || s.Linux == nil {
		return nil, errors.New("the specification is not of a Linux container")
	}
	return &s, nil
}
