package docker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/system"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
	"migrate/internal/shim/sign"
)

// CheckFree implements engine.Engine. It asks everything before the first byte is shipped, and changes nothing.
func (e *Engine) CheckFree(ctx context.Context, c *engine.Container) error {
	if err := validName(c.ID); err != nil {
		return err
	}
	if c.Engine != Name {
		return fmt.Errorf("container %q is one of %s: %w: this is Docker", c.ID, c.Engine, engine.ErrUnsupported)
	}
	if err := e.checkTools(ctx); err != nil {
		return err
	}
	info, err := e.daemon(ctx)
	if err != nil {
		return err
	}
	if err := e.checkDaemon(ctx, info, c); err != nil {
		return err
	}
	o, err := decodeOptions(c)
	if err != nil {
		return err
	}
	s, err := decodeSpec(c.Spec)
	if err != nil {
		return err
	}
	if _, err := safeHostConfig(o.HostConfig, s); err != nil {
		return err
	}
	if err := e.checkName(ctx, c.ID); err != nil {
		return err
	}
	if err := e.checkNetworks(ctx, c); err != nil {
		return err
	}
	return checkPorts(o.HostConfig)
}

func (e *Engine) checkTools(ctx context.Context) error {
	kernel, err := local.KernelRelease()
	if err != nil {
		return err
	}
	if err := local.CheckTool("runc", e.opts.Runc, local.ToolVersion(ctx, e.log, e.opts.Runc, local.RuncVersion), local.OldestRunc, ""); err != nil {
		return err
	}
	oldest, why := local.OldestCRIU(kernel)
	return local.CheckTool("CRIU", e.opts.CRIU, local.ToolVersion(ctx, e.log, e.opts.CRIU, local.CRIUVersion), oldest, why)
}

// checkDaemon asks what of the daemon a restore depends on.
func (e *Engine) checkDaemon(ctx context.Context, info system.Info, c *engine.Container) error {
	if !info.ExperimentalBuild {
		return unfit("set \"experimental\": true in /etc/docker/daemon.json and restart Docker",
			"Docker starts containers from checkpoints only with experimental features on")
	}
	if err := e.checkStorage(info); err != nil {
		return err
	}
	if c.Runtime == sign.Name {
		return e.checkShim(ctx, info)
	}
	if c.Network.Mode != engine.NetworkManaged && c.Network.Mode != engine.NetworkNone {
		return nil
	}
	w, err := e.way(ctx, info)
	if err != nil || w != joinedOnly {
		return err
	}
	return unfit("put containerd-shim-migrate-v1 in the place of the stock shim at the destination (docs/DOCKER.md), or use Docker before 28 there; or give the container the host's network (--network host), or that of a container that runs there (--network container:NAME)",
		"Docker %s cannot restore a container into a network namespace that the runtime makes: it looks for the namespace before there is a process", info.ServerVersion)
}

// checkShim is for containers that are to run with the shim under its own name.
func (e *Engine) checkShim(ctx context.Context, info system.Info) error {
	const remedy = "install containerd-shim-migrate-v1 at the destination (docs/DOCKER.md), or make the container with --runtime runc"
	if holds, err := e.holdsRestores(ctx, info, sign.Name); err != nil { // most likely it is not there, in containerd's words
		return unfit(remedy, "the container runs with the shim %s, which does not answer on this host: %v", sign.Name, err)
	} else if !holds {
		return unfit(remedy, "the container runs with the shim %s, and what this host has by that name is not it", sign.Name)
	}
	if v, err := local.ParseVersion(info.ServerVersion); err != nil || v.Major <= lastGood {
		return unfit("use Docker 28 or later at the destination, or make the container with --runtime runc", "the container runs with the shim %s, which Docker %s does not need", sign.Name, info.ServerVersion)
	}
	return nil
}

// unfit is a refusal of what cannot be moved, or not here, with what to do about it.
func unfit(remedy, format string, args ...any) error {
	return &engine.Advice{Err: fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), engine.ErrUnsupported), Remedy: remedy}
}

func (e *Engine) checkName(ctx context.Context, name string) error {
	_, err := e.look(ctx, name)
	switch {
	case errors.Is(err, engine.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("%s %w on this host: remove it, or choose another name", what(name), engine.ErrExists)
}

// checkPorts tries whether the ports that the container publishes are free.
func checkPorts(h *container.HostConfig) error {
	for port, bindings := range h.PortBindings {
		for _, b := range bindings {
			if err := checkPort(port, b); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkPort(port network.Port, b network.PortBinding) error {
	if n, err := strconv.Atoi(b.HostPort); err != nil || n == 0 || string(port.Proto()) != "tcp" {
		return nil // the daemon chooses, or says itself that it does not work
	}
	host := ""
	if b.HostIP.IsValid() {
		host = b.HostIP.String()
	}
	l, err := net.Listen("tcp", net.JoinHostPort(strings.TrimSpace(host), b.HostPort))
	if err != nil {
		return fmt.Errorf("the container publishes %s at port %s of the host, where %w: %w: free the port", port, b.HostPort, engine.ErrExists, err)
	}
	return l.Close()
}
