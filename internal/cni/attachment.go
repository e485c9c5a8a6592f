package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/utils"
)

// Attachment is one interface in a container's namespace.
type Attachment struct {
	Network     string
	ContainerID string // what the plugins are told
	Interface   string
	MAC         string
	IPs         []string // with prefix length
	MTU         int      // 0 leaves it to the plugins
	Ports       []Port   // of the host, that lead to the container
	Fresh       bool     // the network gives what addresses it likes
}

// maxCacheEntry bounds a file of libcni's cache. They hold a configuration and a result, a few KiB.
const maxCacheEntry = 1 << 20

// cacheEntry is what libcni writes beside its results (libcni/api.go, cachedInfo).
type cacheEntry struct {
	Kind        string `json:"kind"`
	ContainerID string `json:"containerId"`
	IfName      string `json:"ifName"`
	NetworkName string `json:"networkName"`
	NetNS       string `json:"netns"`
	Config      []byte `json:"config"` // of the network, as it was

	Result json.RawMessage `json:"result"` // what the plugins answered

	CapabilityArgs map[string]json.RawMessage `json:"capabilityArgs"`
}

// ports are the port mappings that took effect. Callers that attach several networks tell all of them of the mappings, and
// those without a plugin for them overhear it.
func (e *cacheEntry) ports() []Port {
	raw := e.CapabilityArgs[portMappings]
	if raw == nil {
		return nil
	}
	list, err := libcni.NetworkConfFromBytes(e.Config)
	if err != nil || !(&conf{list}).mapsPorts() {
		return nil
	}
	var ports []Port
	if json.Unmarshal(raw, &ports) != nil {
		return nil
	}
	for i := range ports {
		ports[i].Protocol = strings.ToLower(ports[i].Protocol)
	}
	return slices.DeleteFunc(ports, func(p Port) bool { return p.HostPort == 0 }) // not mapped
}

// attached lists the attachments that the cache has and that wanted accepts, without what only the live namespace knows.
func (h *Host) attached(wanted func(*cacheEntry) bool) ([]Attachment, error) {
	dir := filepath.Join(h.cacheDir, "results")
	files, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read CNI result cache: %w", err)
	}
	var found []Attachment
	for _, f := range files {
		entry, err := readCacheEntry(filepath.Join(dir, f.Name()))
		if err != nil {
			h.log.Warn("CNI result cache entry skipped", "err", err)
			continue
		}
		if entry.IfName == "" || entry.NetworkName == "" || entry.IfName == "lo" || !wanted(&entry) {
			continue
		}
		found = append(found, Attachment{
			Network: entry.NetworkName, ContainerID: entry.ContainerID, Interface: entry.IfName, Ports: entry.ports(),
		})
	}
	slices.SortFunc(found, func(a, b Attachment) int { return compare(a.Interface, b.Interface) })
	return found, nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func readCacheEntry(path string) (cacheEntry, error) {
	var entry cacheEntry
	info, err := os.Stat(path)
	if err != nil {
		return entry, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxCacheEntry {
		return entry, fmt.Errorf("%s is not a cache file", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return entry, err
	}
	if err := json.Unmarshal(data, &entry); err != nil {
		return entry, fmt.Errorf("decode %s: %w", path, err)
	}
	return entry, nil
}

// Recorded lists the attachments that the cache has for the namespace at path, whatever the namespace holds now. It is
// what Detach needs after the container died.
func (h *Host) Recorded(path string) ([]Attachment, error) {
	same := samePath(path)
	return h.attached(func(e *cacheEntry) bool { return same(e.NetNS) })
}

// Forget removes what the cache has on the loopback of a namespace that is about to go. There is nothing to detach: the
// loopback goes with its namespace.
func (h *Host) Forget(path string) error {
	dir := filepath.Join(h.cacheDir, "results")
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read CNI result cache: %w", err)
	}
	same := samePath(path)
	var errs []error
	for _, f := range files {
		name := filepath.Join(dir, f.Name())
		entry, err := readCacheEntry(name)
		if err != nil || entry.IfName != "lo" || !same(entry.NetNS) {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forget loopback of %s: %w", path, err))
		}
	}
	return errors.Join(errs...)
}

// Attached lists the interfaces of the namespace at path as CNI attached them, with their addresses. ErrForeign names
// interfaces that came there in another way, which no destination could make again.
func (h *Host) Attached(path string) ([]Attachment, error) {
	recorded, err := h.Recorded(path)
	if err != nil {
		return nil, err
	}
	links, err := Links(path)
	if err != nil {
		return nil, err
	}
	return match(path, recorded, links)
}

// match gives each recorded attachment its live addresses.
func match(path string, recorded []Attachment, links []Link) ([]Attachment, error) {
	var (
		out     []Attachment
		foreign []string
	)
	for _, link := range links {
		i := slices.IndexFunc(recorded, func(a Attachment) bool { return a.Interface == link.Name })
		switch {
		case i >= 0:
			a := recorded[i]
			a.MAC, a.IPs, a.MTU = link.MAC, link.IPs, link.MTU
			out = append(out, a)
		case !link.Dormant():
			foreign = append(foreign, link.Name)
		}
	}
	if len(foreign) > 0 {
		return nil, fmt.Errorf("%w in %s: %v", ErrForeign, path, foreign)
	}
	for _, a := range recorded {
		if !slices.ContainsFunc(out, func(o Attachment) bool { return o.Interface == a.Interface }) {
			return nil, fmt.Errorf("CNI recorded interface %s of network %q in %s, but it is gone", a.Interface, a.Network, path)
		}
	}
	return out, nil
}

// samePath compares paths by name and, as /var/run is a link to /run, by what they lead to. A bind-mounted namespace
// has its own device and inode, so two paths of one namespace compare equal too.
func samePath(path string) func(string) bool {
	want, wantOK := identity(path)
	return func(other string) bool {
		if other == "" {
			return false
		}
		if filepath.Clean(other) == filepath.Clean(path) {
			return true
		}
		have, ok := identity(other)
		return ok && wantOK && have == want
	}
}

type fileID struct{ dev, ino uint64 }

func identity(path string) (fileID, bool) {
	var st syscall.Stat_t
	if path == "" || syscall.Stat(path, &st) != nil {
		return fileID{}, false
	}
	return fileID{uint64(st.Dev), st.Ino}, true
}

// Validate checks what a peer says of an attachment before any of it reaches a plugin or a path.
func (a Attachment) Validate() error {
	if err := utils.ValidateNetworkName(a.Network); err != nil {
		return fmt.Errorf("attachment: network name %q: %s", a.Network, err.Msg)
	}
	if err := utils.ValidateContainerID(a.ContainerID); err != nil {
		return fmt.Errorf("attachment: container id %q: %s", a.ContainerID, err.Msg)
	}
	if err := utils.ValidateInterfaceName(a.Interface); err != nil {
		return fmt.Errorf("attachment: interface name %q: %s", a.Interface, err.Msg)
	}
	if _, err := net.ParseMAC(a.MAC); a.MAC != "" && err != nil {
		return fmt.Errorf("attachment %s: MAC address: %w", a.Interface, err)
	}
	for _, ip := range a.IPs {
		if _, err := netip.ParsePrefix(ip); err != nil {
			return fmt.Errorf("attachment %s: address: %w", a.Interface, err)
		}
	}
	if a.Fresh && len(a.IPs) > 0 {
		return fmt.Errorf("attachment %s: it is to get addresses of the network's choice, and brings %v", a.Interface, a.IPs)
	}
	if a.MTU < 0 || a.MTU > 1<<16 {
		return fmt.Errorf("attachment %s: MTU %d is out of range", a.Interface, a.MTU)
	}
	if len(a.Ports) > maxPorts {
		return fmt.Errorf("attachment %s: %d port mappings, at most %d are possible", a.Interface, len(a.Ports), maxPorts)
	}
	for _, p := range a.Ports {
		if err := p.validate(); err != nil {
			return fmt.Errorf("attachment %s: port mapping: %w", a.Interface, err)
		}
	}
	return nil
}
