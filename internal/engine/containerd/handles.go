package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
	"migrate/internal/engine/local"
)

// handles gathers what a dump needs.
func (e *Engine) handles(ctx context.Context, s *subject, c *engine.Container) (*engine.Handles, error) {
	r := s.record
	mounts, err := e.snapshotter(r.Snapshotter).Mounts(ctx, r.SnapshotKey)
	if err != nil {
		return nil, fmt.Errorf("look up mounts of snapshot %q: %w", r.SnapshotKey, err)
	}
	upper, err := imagestore.UpperDir(r.Snapshotter, mounts)
	if err != nil {
		return nil, err
	}
	pids, err := e.pids(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	opts := e.runtimeOptions(r)
	h := &engine.Handles{
		Status: status(s.process), Pid: int(s.process.Pid),
		RuntimeRoot: e.runtimeRoot(opts), RuntimeID: r.ID, RuntimePath: e.opts.Runc,
		Upper: upper, NetNS: c.Network.NetNS, Pids: pids,
	}
	if opts.BinaryName != "" {
		h.RuntimePath = opts.BinaryName
	}
	if h.Bundle, err = e.bundle(r.ID, h.Pid); err != nil {
		return nil, err
	}
	state, err := local.ReadRuncState(h.RuntimeRoot, r.ID)
	if err != nil {
		return nil, err
	}
	h.CRIUConfig, h.Mounts, h.CgroupFreeze, h.Passed = state.CRIUConfig(), state.BindMounts(), state.Freezer(), state.Descriptors
	e.nameNetNS(c, h, state.NetNS())
	return h, nil
}

// nameNetNS names a network namespace that has no path. at is the one by which the runtime has got it, if it was given one: that of the
// migration that brought the container here, which it looks for at a dump.
func (e *Engine) nameNetNS(c *engine.Container, h *engine.Handles, at string) {
	n := &c.Network
	if at != "" && n.Mode == engine.NetworkNone { // it has lost its interfaces since; the dump is one of a namespace that was given
		n.Mode, n.NetNS, n.Unnamed = engine.NetworkCNI, e.unnamedPath(c.ID), true
	}
	if n.Unnamed || n.Mode == engine.NetworkNone {
		h.NetNS = procNetNS(h.Pid)
	}
	if n.Unnamed {
		h.NetNSAt = at
	}
}

func (e *Engine) pids(ctx context.Context, id string) ([]int, error) {
	resp, err := e.client.TaskService().ListPids(ctx, &tasks.ListPidsRequest{ContainerID: id})
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", errgrpc.ToNative(err))
	}
	pids := make([]int, 0, len(resp.Processes))
	for _, p := range resp.Processes {
		pids = append(pids, int(p.Pid))
	}
	return pids, nil
}

// runtimeOptions decodes the shim's options; a container without any, or with some of another type, has the defaults.
func (e *Engine) runtimeOptions(r containers.Container) *options.Options {
	opts := &options.Options{}
	if r.Runtime.Options == nil || r.Runtime.Options.GetTypeUrl() == "" {
		return opts
	}
	if err := typeurl.UnmarshalTo(r.Runtime.Options, opts); err != nil {
		e.log.Warn("runtime options not understood", "container", r.ID, "type", r.Runtime.Options.GetTypeUrl(), "err", err)
		return &options.Options{}
	}
	return opts
}

// runtimeRoot is where the shim lets runc keep its state (containerd, cmd/containerd-shim-runc-v2/process/init.go).
func (e *Engine) runtimeRoot(opts *options.Options) string {
	root := opts.Root
	if root == "" {
		root = filepath.Join(defaultStateDir, "runc")
	}
	return filepath.Join(root, e.opts.Namespace)
}

// bundle is the usual place, or where the shim, the parent of the container's init, has its working directory.
func (e *Engine) bundle(id string, pid int) (string, error) {
	dir := e.bundleDir(id)
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err == nil {
		return dir, nil
	}
	shim, err := local.Parent(pid)
	if err != nil {
		return "", err
	}
	dir, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", shim))
	if err != nil {
		return "", fmt.Errorf("find bundle by the shim's working directory: %w", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "config.json")); err != nil {
		return "", fmt.Errorf("find bundle: neither %s nor the shim's %s holds one: name containerd's state directory", e.bundleDir(id), dir)
	}
	return dir, nil
}
