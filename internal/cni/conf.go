package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/utils"
)

// conf is one network configuration, as its file has it.
type conf struct {
	list *libcni.NetworkConfigList
}

// network finds the configuration called name, in the order in which libcni's users look at the directory.
func (h *Host) network(name string) (*conf, error) {
	if err := utils.ValidateNetworkName(name); err != nil {
		return nil, fmt.Errorf("network name %q: %s", name, err.Msg)
	}
	files, err := libcni.ConfFiles(h.confDir, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("list CNI configurations in %s: %w", h.confDir, err)
	}
	slices.Sort(files)
	var broken []error
	for _, file := range files {
		list, err := readConf(file)
		if err != nil {
			broken = append(broken, err)
			continue
		}
		if list.Name == name {
			return &conf{list}, nil
		}
	}
	err = fmt.Errorf("%w %q: no file in %s has that name; copy its configuration from the source host",
		ErrUnknownNetwork, name, h.confDir)
	return nil, errors.Join(append([]error{err}, broken...)...)
}

func readConf(file string) (*libcni.NetworkConfigList, error) {
	if strings.HasSuffix(file, ".conflist") {
		list, err := libcni.ConfListFromFile(file)
		if err != nil {
			return nil, fmt.Errorf("read CNI configuration %s: %w", file, err)
		}
		return list, nil
	}
	// One plugin without a list is the older form, and still common. It becomes a list of one.
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w", err)
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration %s: %w", file, err)
	}
	list, err := json.Marshal(map[string]any{
		"name": plugin.Network.Name, "cniVersion": plugin.Network.CNIVersion, "plugins": []json.RawMessage{data},
	})
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration %s: %w", file, err)
	}
	return libcni.NetworkConfFromBytes(list)
}

// checkPlugins returns an error that names the first plugin binary this host lacks.
func (h *Host) checkPlugins(n *conf) error {
	for _, plugin := range n.list.Plugins {
		names := []string{plugin.Network.Type}
		if ipam := plugin.Network.IPAM.Type; ipam != "" {
			names = append(names, ipam)
		}
		for _, name := range names {
			if _, err := invoke.FindInPath(name, h.binDirs); err != nil {
				return fmt.Errorf("CNI network %q needs the plugin %q, which is not in %s: install it or name its directory",
					n.list.Name, name, strings.Join(h.binDirs, ", "))
			}
		}
	}
	return nil
}

// withAddresses returns the configuration with the wanted addresses in every plugin's args.cni. Unlike CNI_ARGS that
// takes several addresses, and unlike capabilities no plugin has to declare it.
func (n *conf) withAddresses(ips []string, mac string) (*libcni.NetworkConfigList, error) {
	list := *n.list
	list.Plugins = make([]*libcni.PluginConfig, len(n.list.Plugins))
	for i, plugin := range n.list.Plugins {
		args, err := cniArgs(plugin.Bytes, ips, mac)
		if err != nil {
			return nil, fmt.Errorf("CNI network %q: %w", n.list.Name, err)
		}
		list.Plugins[i], err = libcni.InjectConf(plugin, map[string]any{"args": args})
		if err != nil {
			return nil, fmt.Errorf("CNI network %q: set addresses: %w", n.list.Name, err)
		}
	}
	return &list, nil
}

// cniArgs adds addresses to what the configuration has under args already.
func cniArgs(conf []byte, ips []string, mac string) (map[string]any, error) {
	var have struct {
		Args map[string]any `json:"args"`
	}
	if err := json.Unmarshal(conf, &have); err != nil {
		return nil, fmt.Errorf("decode plugin configuration: %w", err)
	}
	args := have.Args
	if args == nil {
		args = map[string]any{}
	}
	inner, _ := args["cni"].(map[string]any)
	if inner == nil {
		inner = map[string]any{}
	}
	if len(ips) > 0 {
		inner["ips"] = ips
	}
	if mac != "" {
		inner["mac"] = mac
	}
	args["cni"] = inner
	return args, nil
}

// dataDirs lists where host-local plugins of the network keep their reservations.
func (n *conf) dataDirs() []string {
	var dirs []string
	for _, plugin := range n.list.Plugins {
		var conf struct {
			IPAM struct {
				Type    string `json:"type"`
				DataDir string `json:"dataDir"`
			} `json:"ipam"`
		}
		if json.Unmarshal(plugin.Bytes, &conf) != nil || conf.IPAM.Type != "host-local" {
			continue
		}
		dir := conf.IPAM.DataDir
		if dir == "" {
			dir = defaultDataDir
		}
		dirs = append(dirs, filepath.Join(dir, n.list.Name))
	}
	return dirs
}

// holder says who holds ip in the reservations of a host-local plugin, "" for nobody.
func holder(dir, ip string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, ip))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read reservation of %s: %w", ip, err)
	}
	id, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n")
	if id = strings.TrimSpace(id); id == "" {
		id = "an unnamed container"
	}
	return id, nil
}
