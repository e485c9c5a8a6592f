package docker

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

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
		Snapshotter: info.Driver, Kernel: kernel, Arch: runtime.GOARCH, Root: filepath.Join(e.root, info.Driver),
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

// overlay2 is the storage driver whose directories this engine knows.
const overlay2 = "overlay2"

// checkStorage refuses what keeps layers or what a container changes elsewhere.
func checkStorage(info system.Info) error {
	for _, pair := range info.DriverStatus {
		if pair[0] == "driver-type" && strings.HasPrefix(pair[1], "io.containerd.snapshotter.") {
			return unfit("switch the feature containerd-snapshotter off in daemon.json, and load or pull the images anew",
				"Docker keeps its images in containerd (snapshotter %s), which this engine does not know", info.Driver)
		}
	}
	if info.Driver != overlay2 {
		return unfit("set storage-driver to overlay2 in daemon.json, and load or pull the images anew",
			"Docker's storage driver is %q, and only overlay2 keeps what a container changes in a directory of its own", info.Driver)
	}
	return nil
}
