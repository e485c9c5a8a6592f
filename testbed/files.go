package testbed

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// A file is put into a host before it starts.
type file struct {
	path    string
	mode    os.FileMode
	content string
}

// containerdConfig leaves out the Kubernetes plugins: they want a CNI set-up and a
// cgroup layout of their own, and slow the start down. What revives dead containers looks often, so that a test meets it
// at every moment.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
	"io.containerd.grpc.v1.cri",
	"io.containerd.cri.v1.images",
	"io.containerd.cri.v1.runtime",
	"io.containerd.internal.v1.tracing",
	"io.containerd.tracing.processor.v1.otlp",
	"io.containerd.nri.v1.nri",
]

[plugins."io.containerd.monitor.container.v1.restart"]
interval = "100ms"

[grpc]
address = "/run/containerd/containerd.sock"
`

// files are what makes a host this host.
func (h *Host) files(keys keys) []file {
	files := []file{
		{"/etc/hostname", 0o644, h.Name + "\n"},
		{"/etc/hosts", 0o644, h.bed.hostsFile()},
		{"/etc/resolv.conf", 0o644, ""},
		{"/etc/containerd/config.toml", 0o644, h.bed.state.Docker.containerdConfig()},
		{"/etc/cni/net.d/10-mt.conflist", 0o644, h.cniConfig()},
	}
	files = append(files, h.bed.state.Docker.files(h.state.InContainerd)...)
	return append(files, keys.files()...)
}

func (t *Testbed) hostsFile() string {
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for _, h := range t.hosts {
		fmt.Fprintf(&b, "%s %s\n", h.Addr(), h.Name)
	}
	// IPv6 has names of its own, so that a name alone always means the same address.
	for _, h := range t.hosts {
		fmt.Fprintf(&b, "%s %s-v6\n", h.Addr6(), h.Name)
	}
	return b.String()
}

// NetworkName is the CNI network that containers of a host may join.
const NetworkName = "mt"

type object = map[string]any

// cniConfig has containers join the host's bridge and so the segment of all hosts.
// A host gives out its own addresses by itself, one of each version of IP, and
// accepts those of the others, for containers that move in with their addresses.
func (h *Host) cniConfig() string {
	network := h.bed.state.Network
	var v4, v6 []object
	for i := range maxHosts {
		first, last := containerRange(network, (h.state.Index+i)%maxHosts)
		v4 = append(v4, addressRange(subnetV4(network), first, last))
		v6 = append(v6, addressRange(subnetV6(network), twinV6(network, first), twinV6(network, last)))
	}
	config := object{
		"cniVersion": "1.0.0",
		"name":       NetworkName,
		"plugins": []object{{
			"type":         "bridge",
			"bridge":       "cni0",
			"isGateway":    false,
			"ipMasq":       false,
			"hairpinMode":  false,
			"promiscMode":  false,
			"capabilities": object{"mac": true, "ips": true},
			"ipam":         object{"type": "host-local", "ranges": [][]object{v4, v6}},
		}},
	}
	text, err := json.MarshalIndent(config, "", "\t")
	if err != nil {
		panic(err) // maps of strings and booleans
	}
	return string(text) + "\n"
}

func addressRange(subnet netip.Prefix, first, last netip.Addr) object {
	return object{"subnet": subnet.String(), "rangeStart": first.String(), "rangeEnd": last.String()}
}

func writeFiles(root string, files []file) error {
	for _, f := range files {
		path := filepath.Join(root, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		if err := os.WriteFile(path, []byte(f.content), f.mode); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		if err := os.Chmod(path, f.mode); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	return nil
}
