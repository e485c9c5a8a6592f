package containerd

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/engine"
)

// toolLimit bounds a tool that is asked for its version.
const toolLimit = 10 * time.Second

var (
	runcVersion = regexp.MustCompile(`(?m)^runc version (\S+)`)
	criuVersion = regexp.MustCompile(`(?m)^Version: (\S+)`)
)

// Info implements engine.Engine.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	version, err := e.client.Version(cctx)
	if err != nil {
		return engine.Info{}, fmt.Errorf("ask containerd for its version: %w", err)
	}
	kernel, err := kernelRelease()
	if err != nil {
		return engine.Info{}, err
	}
	info := engine.Info{Name: Name, Version: version.Version, Kernel: kernel, Arch: runtime.GOARCH}
	var tools sync.WaitGroup
	tools.Go(func() { info.Runtime = e.toolVersion(ctx, e.opts.Runc, runcVersion) })
	tools.Go(func() { info.CRIU = e.toolVersion(ctx, e.opts.CRIU, criuVersion) })
	info.Snapshotter, info.Root = e.defaultSnapshotter(cctx), e.snapshotRoot(cctx)
	tools.Wait()
	return info, nil
}

// toolVersion is "" for a tool that is missing or says something else than it used to.
func (e *Engine) toolVersion(ctx context.Context, tool string, pattern *regexp.Regexp) string {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "--version").Output()
	if err != nil {
		e.log.Debug("tool has no version", "tool", tool, "err", err)
		return ""
	}
	if m := pattern.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

// defaultSnapshotter is what containers of the namespace get when nobody says otherwise.
func (e *Engine) defaultSnapshotter(ctx context.Context) string {
	name, err := e.client.GetLabel(ctx, "containerd.io/defaults/snapshotter")
	if err != nil || name == "" {
		return "overlayfs"
	}
	return name
}

// snapshotRoot is where the default snapshotter keeps file systems, "" when it does not tell.
func (e *Engine) snapshotRoot(ctx context.Context) string {
	plugins, err := e.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1", "id=="+e.defaultSnapshotter(ctx))
	if err != nil {
		return ""
	}
	for _, p := range plugins.Plugins {
		if root := p.Exports["root"]; root != "" {
			return root
		}
	}
	return ""
}

func kernelRelease() (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return unix.ByteSliceToString(uts.Release[:]), nil
}
