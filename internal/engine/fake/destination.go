package fake

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"migrate/internal/engine"
)

// CheckFree implements engine.Engine.
func (e *Engine) CheckFree(ctx context.Context, c *engine.Container) error {
	if err := e.enter(ctx, OpCheckFree, c.ID); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.containers[c.ID] != nil:
		return fmt.Errorf("container %q: %w: choose another name", c.ID, engine.ErrExists)
	case e.snapshots[c.SnapshotKey]:
		return fmt.Errorf("snapshot %q: %w: remove it", c.SnapshotKey, engine.ErrExists)
	case c.Network.NetNS != "" && e.namespaces[c.Network.NetNS]:
		return fmt.Errorf("namespace %q: %w: remove it", c.Network.NetNS, engine.ErrExists)
	}
	for _, key := range addressKeys(c.Network) {
		if who := e.addresses[key]; who != "" {
			return fmt.Errorf("address %q is held by %q: %w", key, who, engine.ErrExists)
		}
	}
	return nil
}

// MissingBlobs implements engine.Engine.
func (e *Engine) MissingBlobs(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	if err := e.enter(ctx, OpMissingBlobs, img.Name); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var missing []engine.Blob
	for _, b := range img.Blobs {
		if _, ok := e.blobs[b.Digest]; !ok {
			missing = append(missing, b)
		}
	}
	return missing, nil
}

// Hold implements engine.Engine. Its undo takes what no image refers to, as a garbage collector would.
func (e *Engine) Hold(ctx context.Context, id string) (context.Context, engine.Undo, error) {
	if err := e.enter(ctx, OpHold, id); err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.leases[id] {
		return nil, nil, fmt.Errorf("migration %s: %w", id, engine.ErrExists)
	}
	e.leases[id] = true
	return ctx, e.undo(OpHold, id, func() {
		delete(e.leases, id)
		if len(e.images) == 0 {
			clear(e.blobs)
		}
	}), nil
}

// IngestBlob implements engine.Engine.
func (e *Engine) IngestBlob(ctx context.Context, b engine.Blob, r io.Reader) error {
	if err := e.enter(ctx, OpIngestBlob, b.Digest); err != nil {
		return err
	}
	data, err := io.ReadAll(io.LimitReader(r, b.Size+1))
	if err != nil {
		return fmt.Errorf("store blob %s: %w", b.Digest, err)
	}
	if int64(len(data)) != b.Size {
		return fmt.Errorf("store blob %s: %d bytes instead of %d", b.Digest, len(data), b.Size)
	}
	if digestOf(data) != b.Digest {
		return fmt.Errorf("store blob %s: its content is %s", b.Digest, digestOf(data))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.blobs[b.Digest] = data
	return nil
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

// PrepareImage implements engine.Engine.
func (e *Engine) PrepareImage(ctx context.Context, c *engine.Container) (engine.Undo, error) {
	if err := e.enter(ctx, OpPrepareImage, c.Image.Name); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range c.Image.Blobs {
		if _, ok := e.blobs[b.Digest]; !ok {
			return nil, fmt.Errorf("prepare image %q: blob %s is missing", c.Image.Name, b.Digest)
		}
	}
	name, target := c.Image.Name, c.Image.Target.Digest
	if have, ok := e.images[name]; ok && have != target {
		name += "@" + target
	}
	c.Image.Name = name
	if _, ok := e.images[name]; ok {
		return e.undo(OpPrepareImage, name, func() {}), nil
	}
	e.images[name] = target
	return e.undo(OpPrepareImage, name, func() {
		for _, other := range e.containers {
			if other.desc.Image.Name == name {
				return
			}
		}
		delete(e.images, name)
	}), nil
}

// PrepareRootfs implements engine.Engine.
func (e *Engine) PrepareRootfs(ctx context.Context, c *engine.Container) (string, engine.Undo, error) {
	if err := e.enter(ctx, OpPrepareRootfs, c.ID); err != nil {
		return "", nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	key := c.SnapshotKey
	if e.snapshots[key] {
		return "", nil, fmt.Errorf("snapshot %q: %w", key, engine.ErrExists)
	}
	dir, err := os.MkdirTemp("", "fake-upper-")
	if err != nil {
		return "", nil, fmt.Errorf("make upper directory: %w", err)
	}
	e.snapshots[key], e.dirs[key] = true, dir
	return dir, e.undo(OpPrepareRootfs, c.ID, func() {
		delete(e.snapshots, key)
		delete(e.dirs, key)
		os.RemoveAll(dir)
	}), nil
}

// OutputLog implements engine.Engine.
func (e *Engine) OutputLog(context.Context, *engine.Container) (string, error) { return "", nil }

// SetupNetwork implements engine.Engine.
func (e *Engine) SetupNetwork(ctx context.Context, c *engine.Container, lock func(netns string) error) (engine.Undo, error) {
	if err := e.enter(ctx, OpSetupNetwork, c.ID); err != nil {
		return nil, err
	}
	n := c.Network
	if n.Mode != engine.NetworkCNI {
		return e.undo(OpSetupNetwork, c.ID, func() {}), nil
	}
	if err := e.claim(n, c.ID); err != nil {
		return nil, err
	}
	if lock != nil {
		if err := lock(n.NetNS); err != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.detach(n)
			return nil, fmt.Errorf("lock %s: %w", n.NetNS, err)
		}
	}
	return e.undo(OpSetupNetwork, c.ID, func() { e.detach(n) }), nil
}

// claim takes the namespace and its addresses, all or none.
func (e *Engine) claim(n engine.Network, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.namespaces[n.NetNS] {
		return fmt.Errorf("namespace %q: %w", n.NetNS, engine.ErrExists)
	}
	for _, key := range addressKeys(n) {
		if e.addresses[key] != "" {
			return fmt.Errorf("address %q: %w", key, engine.ErrExists)
		}
	}
	e.namespaces[n.NetNS] = true
	for _, key := range addressKeys(n) {
		e.addresses[key] = id
	}
	return nil
}

// Register implements engine.Engine.
func (e *Engine) Register(ctx context.Context, c *engine.Container, spec json.RawMessage) (engine.Undo, error) {
	if err := e.enter(ctx, OpRegister, c.ID); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.containers[c.ID] != nil {
		return nil, fmt.Errorf("register %q: %w", c.ID, engine.ErrExists)
	}
	desc := clone(*c)
	desc.Spec = spec
	e.containers[c.ID] = &container{desc: desc, status: engine.StatusStopped}
	return e.undo(OpRegister, c.ID, func() { delete(e.containers, desc.ID) }), nil
}

// PrepareTask implements engine.Engine.
func (e *Engine) PrepareTask(ctx context.Context, c *engine.Container, cp engine.Checkpoint) (engine.Undo, error) {
	if err := e.enter(ctx, OpPrepareTask, c.ID); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	have, err := e.find(c.ID)
	if err != nil {
		return nil, err
	}
	if have.task {
		return nil, fmt.Errorf("task of %q: %w", c.ID, engine.ErrExists)
	}
	have.task, have.status, have.desc.Stdio = true, engine.StatusCreated, cp.Stdio
	return e.undo(OpPrepareTask, c.ID, func() { e.kill(have) }), nil
}

// StartTask implements engine.Engine.
func (e *Engine) StartTask(ctx context.Context, c *engine.Container) (int, error) {
	if err := e.enter(ctx, OpStartTask, c.ID); err != nil {
		return 0, err
	}
	if e.HoldRestore != nil {
		if err := e.HoldRestore(ctx, c.ID); err != nil {
			return 0, fmt.Errorf("restore %q: %w", c.ID, err)
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	have, err := e.find(c.ID)
	if err != nil {
		return 0, err
	}
	if !have.task || have.status != engine.StatusCreated {
		return 0, fmt.Errorf("start %q: it has no task to start: %w", c.ID, engine.ErrNotRunning)
	}
	e.nextPid++
	have.status, have.pid = engine.StatusRunning, e.nextPid
	e.world.runs(e.name, c.ID, true)
	return have.pid, nil
}

// Adopt implements engine.Engine.
func (e *Engine) Adopt(ctx context.Context, c *engine.Container) error {
	if err := e.enter(ctx, OpAdopt, c.ID); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	have, err := e.find(c.ID)
	if err != nil {
		return err
	}
	have.desc.Spec = clone(*c).Spec
	return nil
}
