package local

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// defaultCRIUConfig is what runc hands to CRIU unless the container's annotation says otherwise
// (runc, libcontainer/criu_linux.go, handleCriuConfigurationFile).
const defaultCRIUConfig = "/etc/criu/runc.conf"

// RuncState is the part of runc's state.json that matters here.
type RuncState struct {
	CgroupPaths map[string]string `json:"cgroup_paths"`         // by controller; "" on cgroup2
	Descriptors []string          `json:"external_descriptors"` // of the standard streams
	Config      struct {
		Labels     []string `json:"labels"` // key=value, the annotations among them
		Namespaces []struct {
			Type string `json:"type"` // as runc calls them: NEWNET
			Path string `json:"path"`
		} `json:"namespaces"`
		Mounts []struct {
			Device      string `json:"device"`
			Destination string `json:"destination"`
		} `json:"mounts"`
	} `json:"config"`
}

// ReadRuncState reads what runc keeps of a container below its root.
func ReadRuncState(root, id string) (*RuncState, error) {
	file := filepath.Join(root, id, "state.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read runc's state (is its root %s?): %w", root, err)
	}
	var state RuncState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("decode %s: %w", file, err)
	}
	return &state, nil
}

// CRIUConfig is the configuration file that runc names to CRIU, "" when an empty annotation turned it off.
func (s *RuncState) CRIUConfig() string {
	for _, label := range s.Config.Labels {
		if path, ok := strings.CutPrefix(label, "org.criu.config="); ok {
			return path
		}
	}
	return defaultCRIUConfig
}

// BindMounts are the mounts that runc declares external to CRIU, by destination.
func (s *RuncState) BindMounts() []string {
	var dests []string
	for _, m := range s.Config.Mounts {
		if m.Device == "bind" {
			dests = append(dests, m.Destination)
		}
	}
	return dests
}

// NetNS is the path of the network namespace that runc was given, "" when it made one.
func (s *RuncState) NetNS() string {
	for _, ns := range s.Config.Namespaces {
		if ns.Type == "NEWNET" {
			return ns.Path
		}
	}
	return ""
}

// Freezer is the file that freezes the container's cgroup.
func (s *RuncState) Freezer() string {
	if dir := s.CgroupPaths["freezer"]; dir != "" {
		return existing(filepath.Join(dir, "freezer.state"))
	}
	if dir := s.CgroupPaths[""]; dir != "" {
		return existing(filepath.Join(dir, "cgroup.freeze"))
	}
	return ""
}

func existing(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// Bundle is the container's OCI bundle directory.
func (s *RuncState) Bundle() string {
	for _, label := range s.Config.Labels {
		if path, ok := strings.CutPrefix(label, "bundle="); ok {
			return path
		}
	}
	return ""
}

// Pids lists the processes of the container's cgroup and of those below it.
func (s *RuncState) Pids() ([]int, error) {
	dir := s.CgroupPaths["freezer"]
	if dir == "" {
		dir = s.CgroupPaths[""]
	}
	var pids []int
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "cgroup.procs" {
			return err
		}
		data, err := os.ReadFile(path)
		for _, field := range strings.Fields(string(data)) {
			if pid, perr := strconv.Atoi(field); perr == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the container's processes: %w", err)
	}
	return pids, nil
}

// Parent is the parent of a process; of a container's first one that is its shim.
func Parent(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("find the parent of pid %d: %w", pid, err)
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "PPid:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("find the parent of pid %d: no PPid in its status", pid)
}
