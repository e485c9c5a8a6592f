package gather

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/preflight"
)

// Spec reads what matters out of an OCI specification, and the cgroup controllers for which it has limits.
func Spec(raw json.RawMessage) (s preflight.Spec, limits []string, err error) {
	var spec specs.Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return s, nil, fmt.Errorf("decode the container's specification: %w", err)
	}
	if spec.Process != nil {
		s.Terminal = spec.Process.Terminal
	}
	l := spec.Linux
	if l == nil {
		return s, nil, nil
	}
	s.Joined = map[string]string{}
	for _, ns := range l.Namespaces {
		s.Own = append(s.Own, string(ns.Type))
		if ns.Path != "" {
			s.Joined[string(ns.Type)] = ns.Path
		}
	}
	for _, m := range spec.Mounts {
		if m.Type == "cgroup" || m.Type == "cgroup2" {
			s.CgroupMount = m.Destination
		}
	}
	s.UserMapping = len(l.UIDMappings)+len(l.GIDMappings) > 0
	s.Notify = l.Seccomp != nil && l.Seccomp.ListenerPath != ""
	return s, controllers(l.Resources), nil
}

func controllers(r *specs.LinuxResources) (names []string) {
	if r == nil {
		return nil
	}
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		names = append(names, "memory")
	}
	if r.CPU != nil && (r.CPU.Quota != nil && *r.CPU.Quota > 0) {
		names = append(names, "cpu")
	}
	if r.CPU != nil && (r.CPU.Cpus != "" || r.CPU.Mems != "") {
		names = append(names, "cpuset")
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
		names = append(names, "pids")
	}
	return names
}
