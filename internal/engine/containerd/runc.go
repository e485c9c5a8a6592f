package containerd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// defaultCRIUConfig is what runc hands to CRIU unless the container's annotation says otherwise
// (runc, libcontainer/criu_linux.go, handleCriuConfigurationFile).
const defaultCRIUConfig = "/etc/criu/runc.conf"

// runcState is the part of runc's state.json that matters here.
type runcState struct {
	CgroupPaths map[string]string `json:"cgroup_paths"`         // by controller; "" on cgroup2
	Descriptors []string          `json:"external_descriptors"` // of the standard streams
	Config      struct {
		Labels []string `json:"labels"` // key=value, the annotations among them
		Mounts []struct {
			Device      string `json:"device"`
			Destination string `json:"destination"`
		} `json:"mounts"`
	} `json:"config"`
}

func readRuncState(root, id string) (*runcState, error) {
	file := filepath.Join(root, id, "state.json")
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read runc's state (is its root %s?): %w", root, err)
	}
	var state runcState
	if err := json.Unmarshal(data, &state); err != nil {
		return nil, fmt.Errorf("decode %s: %w", file, err)
	}
	return &state, nil
}

// criuConfig is the configuration file that runc names to CRIU, "" when an empty annotation turned it off.
func (s *runcState) criuConfig() string {
	for _, label := range s.Config.Labels {
		if path, ok := strings.CutPrefix(label, "org.criu.config="); ok {
			return path
		}
	}
	return defaultCRIUConfig
}

// bindMounts are the mounts that runc declares external to CRIU, by destination.
func (s *runcState) bindMounts() []string {
	var dests []string
	for _, m := range s.Config.Mounts {
		if m.Device == "bind" {
			dests = append(dests, m.Destination)
		}
	}
	return dests
}

// freezer is the file that freezes the container's cgroup.
func (s *runcState) freezer() string {
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
