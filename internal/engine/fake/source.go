package fake

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"migrate/internal/engine"
)

// Info implements engine.Engine.
func (e *Engine) Info(ctx context.Context) (engine.Info, error) {
	if err := e.enter(ctx, OpInfo, ""); err != nil {
		return engine.Info{}, err
	}
	return engine.Info{
		Name: Name, Version: "1.0.0", Runtime: "1.3.6", CRIU: "4.2.1", Snapshotter: "overlayfs", Kernel: "6.18.0", Arch: "amd64",
	}, nil
}

// Has implements engine.Engine.
func (e *Engine) Has(_ context.Context, id string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[id] != nil
}

// Inspect implements engine.Engine.
func (e *Engine) Inspect(ctx context.Context, id string) (*engine.Container, *engine.Handles, error) {
	if err := e.enter(ctx, OpInspect, id); err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(id)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case c.task && c.status == engine.StatusPaused:
		return nil, nil, fmt.Errorf("inspect %q: %w", id, engine.ErrPaused)
	case !c.task || c.status != engine.StatusRunning:
		return nil, nil, fmt.Errorf("inspect %q, which is %s: %w", id, c.status, engine.ErrNotRunning)
	}
	desc := clone(c.desc)
	return &desc, &engine.Handles{
		Status: c.status, Pid: c.pid, Pids: []int{c.pid}, RuntimeID: id, RuntimeRoot: "/run/fake", RuntimePath: "runc",
		Bundle: "/run/fake/" + id, Upper: e.upper(desc.SnapshotKey), NetNS: desc.Network.NetNS,
	}, nil
}

func (e *Engine) find(id string) (*container, error) {
	c := e.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container %q on %s: %w", id, e.name, engine.ErrNotFound)
	}
	return c, nil
}

// clone copies what callers may change.
func clone(c engine.Container) engine.Container {
	c.Labels = maps.Clone(c.Labels)
	c.Spec = bytes.Clone(c.Spec)
	c.Image.Blobs = slices.Clone(c.Image.Blobs)
	c.Network.Attachments = slices.Clone(c.Network.Attachments)
	return c
}

// OpenBlob implements engine.Engine.
func (e *Engine) OpenBlob(ctx context.Context, b engine.Blob) (io.ReadCloser, error) {
	if err := e.enter(ctx, OpOpenBlob, b.Digest); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	data, ok := e.blobs[b.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s is not on %s", b.Digest, e.name)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Lock implements engine.Engine.
func (e *Engine) Lock(ctx context.Context, id string) (*os.File, engine.Undo, error) {
	if err := e.enter(ctx, OpLock, id); err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.locks[id] {
		return nil, nil, fmt.Errorf("%q is being migrated already: %w", id, engine.ErrExists)
	}
	e.locks[id] = true
	return nil, e.undo(OpLock, id, func() { delete(e.locks, id) }), nil
}

// Shield implements engine.Engine. Nothing here starts containers by itself.
func (e *Engine) Shield(ctx context.Context, id string) (engine.Undo, error) {
	if err := e.enter(ctx, OpShield, id); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := e.find(id); err != nil {
		return nil, err
	}
	return e.undo(OpShield, id, func() {}), nil
}

// Unshield implements engine.Shielder.
func (e *Engine) Unshield(ctx context.Context, id string) error { return e.enter(ctx, OpUnshield, id) }

// Doubt implements engine.Shielder.
func (e *Engine) Doubt(ctx context.Context, id string) error { return e.enter(ctx, OpDoubt, id) }

// Reclaim implements engine.Shielder. Nothing here outlives its migration.
func (e *Engine) Reclaim(ctx context.Context) error { return e.enter(ctx, OpReclaim, "") }

// Pause implements engine.Engine.
func (e *Engine) Pause(ctx context.Context, id string) error {
	if err := e.enter(ctx, OpPause, id); err != nil {
		return err
	}
	return e.become(id, engine.StatusPaused)
}

// Resume implements engine.Engine.
func (e *Engine) Resume(ctx context.Context, id string) error {
	if err := e.enter(ctx, OpResume, id); err != nil {
		return err
	}
	return e.become(id, engine.StatusRunning)
}

// become moves a live task between running and paused.
func (e *Engine) become(id string, s engine.Status) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(id)
	if err != nil {
		return err
	}
	if !c.task || c.status != engine.StatusRunning && c.status != engine.StatusPaused {
		return fmt.Errorf("container %q: %w", id, engine.ErrNotRunning)
	}
	if c.status != s {
		c.status = s
		e.world.runs(e.name, id, s == engine.StatusRunning)
	}
	return nil
}

// Forsake implements engine.Engine. Nothing here starts containers anew.
func (e *Engine) Forsake(ctx context.Context, id string) error { return e.enter(ctx, OpForsake, id) }

// Retire implements engine.Engine.
func (e *Engine) Retire(ctx context.Context, id string, keep bool) error {
	if err := e.enter(ctx, OpRetire, id); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.containers[id]
	if c == nil {
		return nil
	}
	e.kill(c)
	e.detach(c.desc.Network)
	if keep {
		if ns := c.desc.Network.NetNS; ns != "" {
			e.namespaces[ns] = true
		}
		return nil
	}
	delete(e.snapshots, c.desc.SnapshotKey)
	delete(e.containers, id)
	return nil
}

func (e *Engine) kill(c *container) {
	if c.task && c.status == engine.StatusRunning {
		e.world.runs(e.name, c.desc.ID, false)
	}
	c.task, c.status, c.pid = false, engine.StatusStopped, 0
}

func (e *Engine) detach(n engine.Network) {
	for _, key := range addressKeys(n) {
		delete(e.addresses, key)
	}
	delete(e.namespaces, n.NetNS)
}

// addressKeys names the addresses that a network occupies on a host.
func addressKeys(n engine.Network) []string {
	var keys []string
	for _, a := range n.Attachments {
		for _, ip := range a.IPs {
			keys = append(keys, a.Network+" "+ip)
		}
	}
	return keys
}

// RestoreWay implements engine.Engine.
func (e *Engine) RestoreWay(context.Context) (string, error) { return "", nil }
