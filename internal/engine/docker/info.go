package docker

import (
	"context"
	"fmt"
	"runtime"

	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Info implements engine.Engine.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	info, err := e.daemon(ctx)
	if err != nil {
		return engine.Info{}, err
	}
	kernel, err := local.KernelRelease()
	if err != nil {
		return engine.Info{}, err
	}
	return engine.Info{
		Name: Name, Version: info.ServerVersion,
		Runtime:     local.ToolVersion(ctx, e.log, e.opts.Runc, local.RuncVersion),
		CRIU:        local.ToolVersion(ctx, e.log, e.opts.CRIU, local.CRIUVersion),
		Snapshotter: info.Driver, Kernel: kernel, Arch: runtime.GOARCH, Root: e.store.files(ctx),
	}, nil
}

func (e *Engine) daemon(ctx context.Context) (system.Info, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	res, err := e.api.Info(ctx, client.InfoOptions{})
	if err != nil {
		return system.Info{}, fmt.Errorf("ask Docker about itself: %w", err)
	}
	return res.Info, nil
}
