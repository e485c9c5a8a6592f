package containerd

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Info implements engine.Engine.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	version, err := e.client.Version(cctx)
	if err != nil {
		return engine.Info{}, fmt.Errorf("ask containerd for its version: %w", err)
	}
	kernel, err := local.KernelRelease()
	if err != nil {
		return engine.Info{}, err
	}
	info := engine.Info{Name: Name, Version: version.Version, Kernel: kernel, Arch: runtime.GOARCH}
	var tools sync.WaitGroup
	tools.Go(func() { info.Runtime = local.ToolVersion(ctx, e.log, e.opts.Runc, local.RuncVersion) })
	tools.Go(func() { info.CRIU = local.ToolVersion(ctx, e.log, e.opts.CRIU, local.CRIUVersion) })
	info.Snapshotter = e.defaultSnapshotter(cctx)
	info.Root = e.images.Root(cctx, info.Snapshotter)
	tools.Wait()
	return info, nil
}

// defaultSnapshotter is what containers of the namespace get when nobody says otherwise.
func (e *Engine) defaultSnapshotter(ctx context.Context) string {
	name, err := e.client.GetLabel(ctx, "containerd.io/defaults/snapshotter")
	if err != nil || name == "" {
		return "overlayfs"
	}
	return name
}

// RestoreWay implements engine.Engine.
func (e *Engine) RestoreWay(context.Context) (string, error) { return "", nil }
