package docker

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"migrate/internal/criu"
	"migrate/internal/engine/local"
	"migrate/internal/shim/sign"
)

// way is how a daemon restores containers, in words.
type way string

const (
	byHook     way = "containers on networks of any kind: it connects them by a hook of the runtime, which restores call"
	byShim     way = "containers on networks of any kind, through the shim " + sign.Name
	joinedOnly way = "only containers that use the host's network or another container's: it looks for a network namespace of their own before there is a process, and the shim " + sign.Name + " is not in use"
)

// RestoreWay implements engine.Engine.
func (e *Engine) RestoreWay(ctx context.Context) (string, error) {
	info, err := e.daemon(ctx)
	if err != nil {
		return "", err
	}
	w, err := e.way(ctx, info)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Docker %s restores %s", info.ServerVersion, w), nil
}

// way looks which it is.
func (e *Engine) way(ctx context.Context, info system.Info) (way, error) {
	if ok, err := e.fillsNamespaces(ctx, info); err != nil || ok {
		return byHook, err
	}
	if !runsStock(info) {
		return joinedOnly, nil
	}
	if ok, err := e.holdsRestores(ctx, info, sign.StockName); err != nil || ok {
		return byShim, err
	}
	return joinedOnly, nil
}

// lastGood is the last version of the daemon whose runtime hook gives it the namespace of a container that is being restored.
const lastGood = 27

// fillsNamespaces looks whether the daemon attaches containers by a hook of the runtime, which restores call too. Daemons that do
// not, attach them when the runtime has told the pid, and a restore has none by then. Without a container to look at, the version
// has to tell.
func (e *Engine) fillsNamespaces(ctx context.Context, info system.Info) (bool, error) {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	all, err := e.api.ContainerList(cctx, client.ContainerListOptions{})
	if err != nil {
		return false, fmt.Errorf("list containers: %w", err)
	}
	for _, other := range all.Items {
		mode := container.NetworkMode(other.HostConfig.NetworkMode)
		if mode.IsHost() || mode.IsContainer() {
			continue
		}
		state, err := local.ReadRuncState(e.runtimeRoot(other.ID), other.ID)
		if err != nil {
			continue // it may just have ended
		}
		if s, err := readSpec(state.Bundle()); err == nil {
			return hasSetKey(s), nil
		}
	}
	v, err := local.ParseVersion(info.ServerVersion)
	if err != nil {
		return false, fmt.Errorf("version of Docker: %w", err)
	}
	return v.Major <= lastGood, nil
}

// holdsRestores asks the daemon's containerd what a runtime's shim says of itself. containerd looks for the shim as it does when it starts one.
func (e *Engine) holdsRestores(ctx context.Context, info system.Info, runtime string) (bool, error) {
	if info.Containerd == nil || info.Containerd.Address == "" {
		return false, nil
	}
	ctx, cancel := e.call(namespaces.WithNamespace(ctx, e.opts.Namespace), callLimit)
	defer cancel()
	c, err := containerd.New(info.Containerd.Address, containerd.WithTimeout(connectLimit))
	if err != nil {
		return false, fmt.Errorf("connect to Docker's containerd at %s: %w", info.Containerd.Address, err)
	}
	defer c.Close()
	shim, err := c.RuntimeInfo(ctx, runtime, nil)
	if errdefs.IsNotImplemented(err) {
		return false, nil // a containerd that is older than the question
	}
	if err != nil {
		return false, fmt.Errorf("ask Docker's containerd about its shim: %w", err)
	}
	return shim.Annotations[sign.Holds] == criu.ActionSetupNamespaces, nil
}

// runsStock says whether containers that choose no runtime are started with the stock shim's name. Runtimes with a path are
// (moby, daemon/runtime_unix.go).
func runsStock(info system.Info) bool {
	rt, configured := info.Runtimes[info.DefaultRuntime]
	return configured && (rt.Type == "" || rt.Type == sign.StockName)
}
