package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"migrate/testbed/internal/cgroup"
	"migrate/testbed/internal/child"
	"migrate/testbed/internal/lan"
)

// ownDirs are directories of a host that are not on its overlay, because an
// overlay cannot be the upper layer of a container's.
var ownDirs = []string{"containerd", "docker"}

// raise makes the host and starts its daemons.
func (h *Host) raise(ctx context.Context, options Options, keys keys) error {
	if err := h.prepare(options, keys); err != nil {
		return err
	}
	if err := h.boot(ctx, options); err != nil {
		return err
	}
	for _, daemon := range startedDaemons {
		if err := h.StartDaemon(ctx, daemon); err != nil {
			return err
		}
	}
	if options.Docker != DockerNone {
		if err := h.startDocker(ctx); err != nil {
			return err
		}
	}
	h.bed.log.Debug("host is up", "host", h.Name, "address", h.Addr(), "pid", h.Pid())
	return nil
}

func (h *Host) dir(name string) string { return filepath.Join(h.bed.place.host(h.Name), name) }

// prepare fills the upper layer of the host's root before it is mounted.
func (h *Host) prepare(options Options, keys keys) error {
	for _, dir := range append([]string{"upper", "work", "root"}, ownDirs...) {
		if err := os.MkdirAll(h.dir(dir), 0o755); err != nil {
			return fmt.Errorf("make its directories: %w", err)
		}
	}
	upper := h.dir("upper")
	if err := writeFiles(upper, h.files(keys)); err != nil {
		return err
	}
	if err := copyFile("/proc/self/exe", filepath.Join(upper, child.Self), 0o755); err != nil {
		return fmt.Errorf("install its init: %w", err)
	}
	for name, path := range options.Binaries {
		if err := copyFile(path, filepath.Join(upper, "usr/local/bin", name), 0o755); err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
	}
	return nil
}

// boot starts the host's first process, connects it to the network and has it
// become the init.
func (h *Host) boot(ctx context.Context, options Options) error {
	tree, err := cgroup.At(h.cgroup())
	if err != nil {
		return err
	}
	if err := tree.Create(); err != nil {
		return err
	}
	log, err := os.OpenFile(h.dir("init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	started, err := child.StartHost(h.cgroup(), log)
	if err != nil {
		return err
	}
	if err := h.admit(ctx, tree, started.Pid); err != nil {
		started.Discard()
		return err
	}
	return started.Boot(h.config(options))
}

// admit moves the first process into its cgroup before it starts anything, writes
// it down and connects it.
func (h *Host) admit(ctx context.Context, tree *cgroup.Tree, pid int) error {
	if err := tree.Join(pid); err != nil {
		return err
	}
	init, err := processOf(pid)
	if err != nil {
		return err
	}
	if err := h.update(ctx, func(s *hostState) { s.Init = init }); err != nil {
		return err
	}
	if err := h.port().Connect(hostAddress(h.bed.state.Network, h.state.Index)); err != nil {
		return err
	}
	if h.state.Rate != 0 {
		err = h.port().SetRate(h.state.Rate)
	}
	return errors.Join(err, ctx.Err())
}

func (h *Host) port() lan.Port {
	return lan.Port{Host: h.Name, SwitchPID: h.bed.state.Switch.Pid, HostPID: h.Pid()}
}

func (h *Host) config(options Options) child.Config {
	config := child.Config{
		Cgroup:   h.cgroup(),
		Hostname: h.Name,
		Lower:    h.bed.state.Root,
		Upper:    h.dir("upper"),
		Work:     h.dir("work"),
		Root:     h.dir("root"),
		Cgroup2:  options.Cgroup2 && !slices.Contains(options.V1, h.Name),
		Env:      hostEnv,
	}
	for _, dir := range ownDirs {
		config.Binds = append(config.Binds, child.Bind{From: h.dir(dir), To: "/var/lib/" + dir})
	}
	for to, from := range options.Binds {
		config.Binds = append(config.Binds, child.Bind{From: from, To: to})
	}
	return config
}
