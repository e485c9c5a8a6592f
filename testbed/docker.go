package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"migrate/testbed/internal/lan"
	"migrate/testbed/rootfs"
)

// Docker is a generation of Docker that hosts can have.
type Docker string

// The generations.
const (
	DockerNone Docker = ""
	Docker26   Docker = "26.1" // of Debian 13, with CRIU of the release after it
	Docker28   Docker = "28.5" // of the release that hosts have otherwise

	Docker28Shim Docker = "28.5+shim" // the same, with the shim of this project in the place of containerd's
)

// StockShim is the name of the program in whose place the shim is. Options.Binaries may give another one than what is built.
const StockShim = "containerd-shim-runc-v2"

// dockerDaemon is the name of Docker's daemon.
const dockerDaemon = "dockerd"

// DockerNetwork is the user-defined network of every host with Docker that joins the segment of all hosts, as the CNI network
// does.
const DockerNetwork = "mt"

func (d Docker) check() error {
	switch d {
	case DockerNone, Docker26, Docker28, Docker28Shim:
		return nil
	}
	return fmt.Errorf("docker %q: known are %s, %s and %s", string(d), Docker26, Docker28, Docker28Shim)
}

// root is what the hosts' trees consist of.
func (o Options) root() rootfs.Spec {
	switch o.Docker {
	case Docker26:
		return rootfs.Docker26(preloadSource, o.Packages...)
	case Docker28, Docker28Shim:
		return rootfs.Default(preloadSource, append(rootfs.DockerPackages, o.Packages...)...)
	}
	return rootfs.Default(preloadSource, o.Packages...)
}

// containerdConfig: the containerd of Docker 26.1 reads version 2, later ones too.
func (d Docker) containerdConfig() string {
	if d == Docker26 {
		return strings.Replace(containerdConfig, "version = 3", "version = 2", 1)
	}
	return containerdConfig
}

// withShim adds the shim to what hosts get, where they are to have it; done removes what was built.
func (o Options) withShim(ctx context.Context) (_ Options, done func(), err error) {
	if o.Docker != Docker28Shim || o.Binaries[StockShim] != "" {
		return o, func() {}, nil
	}
	path, done, err := buildProgram(ctx, "shim", "migrate/cmd/containerd-shim-migrate-v1")
	if err != nil {
		return o, nil, err
	}
	binaries := map[string]string{StockShim: path}
	maps.Copy(binaries, o.Binaries)
	o.Binaries = binaries
	return o, done, nil
}

// dockerConfig has what restores need: checkpoints are an experimental feature.
var dockerConfig = object{
	"experimental": true,
	"data-root":    "/var/lib/docker",
	"log-driver":   "json-file",
}

// files of a host whose Docker keeps images in containerd, or in a store of its own.
func (d Docker) files(inContainerd bool) []file {
	if d == DockerNone {
		return nil
	}
	config := maps.Clone(dockerConfig)
	if inContainerd {
		config["features"] = object{"containerd-snapshotter": true}
	}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err) // maps of strings and booleans
	}
	return []file{{"/etc/docker/daemon.json", 0o644, string(text) + "\n"}}
}

// startDocker starts the daemon and makes the network.
func (h *Host) startDocker(ctx context.Context) error {
	if err := h.StartDaemon(ctx, dockerDaemon); err != nil {
		return err
	}
	network := h.bed.state.Network
	first, _ := containerRange(network, h.state.Index)
	argv := []string{"docker", "network", "create", "--driver", "bridge",
		"--subnet", subnetV4(network).String(), "--ip-range", rangePrefix(first), "--gateway", h.Addr().String(),
		"--opt", "com.docker.network.bridge.name=" + lan.HostBridge, "--opt", "com.docker.network.bridge.inhibit_ipv4=true",
		"--opt", "com.docker.network.bridge.enable_ip_masquerade=false", DockerNetwork}
	_, err := h.run(ctx, argv...)
	return err
}
