package docker

import (
	"context"
	"fmt"

	"migrate/internal/engine"
)

// handles gathers what a dump needs.
func (e *Engine) handles(ctx context.Context, s *subject, c *engine.Container) (*engine.Handles, error) {
	r := s.record
	upper, err := e.store.upper(ctx, r)
	if err != nil {
		return nil, err
	}
	h := &engine.Handles{
		Status: status(r.State), Pid: r.State.Pid,
		RuntimeRoot: e.runtimeRoot(r.ID), RuntimeID: r.ID, RuntimePath: e.opts.Runc,
		Bundle: s.bundle, Upper: upper,
		CRIUConfig: s.state.CRIUConfig(), Mounts: s.state.BindMounts(), CgroupFreeze: s.state.Freezer(), Passed: s.state.Descriptors,
	}
	if c.Network.Own() || c.Network.Mode == engine.NetworkNone {
		h.NetNS = fmt.Sprintf("/proc/%d/ns/net", h.Pid)
	}
	if r.HostConfig.LogConfig.Type == jsonLog {
		h.Log = r.LogPath
	}
	if h.Pids, err = s.state.Pids(); err != nil {
		return nil, err
	}
	return h, nil
}
