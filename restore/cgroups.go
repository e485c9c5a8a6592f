package restore

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/preflight/gather"
)

// otherCgroups says whether the source's control groups are of the other version. What CRIU has dumped of them cannot be made here
// then: all processes come to be in the group that the runtime makes for the container.
func (r *receiver) otherCgroups() bool {
	version, _ := gather.Cgroups()
	theirs := r.offer.Facts.Cgroup
	return version != 0 && theirs != 0 && version != theirs
}

// fitLimits takes out of a specification those limits for which this host has no controller, as the runtime would fail over them when the
// container stands still. The source has heard of them; the container's record keeps them, for a host that can keep to them.
func fitLimits(spec json.RawMessage) (json.RawMessage, error) {
	version, controllers := gather.Cgroups()
	if version == 0 {
		return spec, nil
	}
	var s specs.Spec
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, fmt.Errorf("decode the container's specification: %w", err)
	}
	if s.Linux == nil || s.Linux.Resources == nil {
		return spec, nil
	}
	fitResources(s.Linux.Resources, version, controllers)
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the container's specification: %w", err)
	}
	return spec, nil
}

func fitResources(r *specs.LinuxResources, version int, controllers []string) {
	has := func(name string) bool { return slices.Contains(controllers, name) }
	if !has("memory") {
		r.Memory = nil
	}
	if !has("pids") {
		r.Pids = nil
	}
	if !has("io") && !has("blkio") {
		r.BlockIO = nil
	}
	if !has("hugetlb") {
		r.HugepageLimits = nil
	}
	if !has("rdma") {
		r.Rdma = nil
	}
	if r.CPU != nil && !has("cpu") {
		r.CPU = &specs.LinuxCPU{Cpus: r.CPU.Cpus, Mems: r.CPU.Mems}
	}
	if r.CPU != nil && !has("cpuset") {
		r.CPU.Cpus, r.CPU.Mems = "", ""
	}
	if version == 1 {
		r.Unified = nil // files of version 2
	}
	maps.DeleteFunc(r.Unified, func(file, _ string) bool {
		controller, _, _ := strings.Cut(file, ".")
		return controller != "cgroup" && !has(controller)
	})
}
