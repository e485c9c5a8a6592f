package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"migrate/internal/cni"
	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
	"migrate/internal/engine/local"
)

// CheckFree implements engine.Engine. It asks everything before the first byte is shipped, and changes nothing.
func (e *Engine) CheckFree(ctx context.Context, c *engine.Container) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if err := validContainer(c); err != nil {
		return err
	}
	for _, check := range []func(context.Context, *engine.Container) error{
		e.checkTools, e.checkRuntime, e.checkID, e.checkSnapshot, e.checkNetwork,
	} {
		if err := check(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// checkTools compares runc and CRIU with the oldest that can restore here.
func (e *Engine) checkTools(ctx context.Context, _ *engine.Container) error {
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

// checkRuntime asks containerd for the shim and the snapshotter. A peer's runtime options must be ones it may choose.
func (e *Engine) checkRuntime(ctx context.Context, c *engine.Container) error {
	if !restores(c.Runtime) {
		return fmt.Errorf("runtime %q: %w: only %sv2 restores", c.Runtime, engine.ErrUnsupported, runtimePrefix)
	}
	if _, err := e.askRuntime(ctx, c.Runtime); err != nil {
		return err
	}
	if _, err := safeRuntimeOptions(c.RuntimeOpts); err != nil {
		return err
	}
	if !imagestore.Separate(c.Snapshotter) {
		return imagestore.Unfit(c.Snapshotter)
	}
	plugins, err := e.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1", "id=="+c.Snapshotter)
	if err != nil {
		return fmt.Errorf("ask containerd for its snapshotters: %w", err)
	}
	for _, p := range plugins.Plugins {
		if p.ID == c.Snapshotter && p.InitErr == nil {
			return nil
		}
	}
	return fmt.Errorf("snapshotter %q is not available on this host: see `ctr plugins ls`: %w", c.Snapshotter, engine.ErrUnsupported)
}

func (e *Engine) checkID(ctx context.Context, c *engine.Container) error {
	_, err := e.client.ContainerService().Get(ctx, c.ID)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("look up %s: %w", e.what(c.ID), err)
	}
	return fmt.Errorf("%s %w on this host: remove it, or choose another name", e.what(c.ID), engine.ErrExists)
}

func (e *Engine) checkSnapshot(ctx context.Context, c *engine.Container) error {
	_, err := e.snapshotter(c.Snapshotter).Stat(ctx, c.SnapshotKey)
	switch {
	case errdefs.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("look up snapshot %q: %w", c.SnapshotKey, err)
	}
	return fmt.Errorf("snapshot %q %w on this host and belongs to no container of that name: remove it with `ctr -n %s snapshots --snapshotter %s rm %s`",
		c.SnapshotKey, engine.ErrExists, e.opts.Namespace, c.Snapshotter, c.SnapshotKey)
}

func (e *Engine) checkNetwork(_ context.Context, c *engine.Container) error {
	if c.Network.Mode != engine.NetworkCNI {
		return nil
	}
	if err := cni.CheckPathFree(c.Network.NetNS); err != nil {
		return taken(err)
	}
	for _, a := range c.Network.Attachments {
		if err := e.cni.Check(hostAttachment(a)); err != nil {
			return taken(err)
		}
	}
	return nil
}

// taken gives package cni's error its meaning in package engine.
func taken(err error) error {
	if errors.Is(err, cni.ErrInUse) {
		return fmt.Errorf("%w: %w", engine.ErrExists, err)
	}
	return err
}
