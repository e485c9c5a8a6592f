package docker

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
)

// criuAnnotation names the CRIU configuration of a container (runc, libcontainer/criu_linux.go).
const criuAnnotation = "org.criu.config"

// setKey is the hook by which daemons before version 28 are given a namespace that runc has made (moby, libnetwork/sandbox_externalkey_unix.go).
const setKey = "libnetwork-setkey"

func readSpec(bundle string) (*specs.Spec, error) {
	file := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the container's specification: %w", err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("decode %s: %w", file, err)
	}
	if s.Linux == nil || s.Process == nil || s.Root == nil {
		return nil, fmt.Errorf("%s is not of a Linux container: %w", file, engine.ErrUnsupported)
	}
	return &s, nil
}

// hasSetKey says whether the daemon attaches the container by its hook.
func hasSetKey(s *specs.Spec) bool {
	//lint:ignore SA1019 the daemon uses the deprecated kind
	return s.Hooks != nil && slices.ContainsFunc(s.Hooks.Prestart, isSetKey)
}

func isSetKey(h specs.Hook) bool { return len(h.Args) > 0 && h.Args[0] == setKey }

// portable leaves of a specification what the container is on any host. What the daemon adds for itself, its destination adds
// likewise: the hook, the path of the root file system, the cgroup, and files that it binds into every container.
func portable(s *specs.Spec, containers string) (json.RawMessage, error) {
	out := *s
	out.Root = &specs.Root{Path: "rootfs", Readonly: s.Root.Readonly}
	if s.Hooks != nil {
		hooks := *s.Hooks
		//lint:ignore SA1019 the daemon uses the deprecated kind
		hooks.Prestart = slices.DeleteFunc(slices.Clone(hooks.Prestart), isSetKey)
		out.Hooks = &hooks
	}
	out.Mounts = slices.DeleteFunc(slices.Clone(s.Mounts), func(m specs.Mount) bool { return daemonMount(m, containers) })
	linux := *s.Linux
	linux.CgroupsPath = ""
	linux.Namespaces = slices.Clone(linux.Namespaces)
	for i := range linux.Namespaces {
		if linux.Namespaces[i].Type == specs.NetworkNamespace {
			linux.Namespaces[i].Path = ""
		}
	}
	out.Linux = &linux
	out.Annotations = nil
	data, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encode the container's specification: %w", err)
	}
	return data, nil
}

// initPath is where the daemon binds the init that --init asks for.
const initPath = "/sbin/docker-init"

// daemonMount recognises what the daemon makes for a container in the container's own directory, or, where that one's network is
// used, in another's; and its init.
func daemonMount(m specs.Mount, containers string) bool {
	if m.Type != "bind" {
		return false
	}
	return filepath.Dir(filepath.Dir(m.Source)) == containers || m.Destination == initPath
}
