package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"migrate/internal/cni"
	"migrate/internal/engine"
)

// Retire implements engine.Engine. It may be run again after it failed half-way, and a container that is gone is no
// error.
//
// A container that is kept loses its addresses, since they are in use at the destination, and whatever sockets its
// namespace still holds: its network namespace is made anew, empty but for loopback. It can be started again, and then
// has no network until its owner attaches one.
func (e *Engine) Retire(ctx context.Context, id string, keep bool) error {
	record, err := e.forsake(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := e.removeTask(ctx, id, e.runtimeRoot(e.runtimeOptions(record))); err != nil {
		return err
	}
	if err := e.removeNetwork(ctx, record, keep); err != nil {
		return fmt.Errorf("retire %s: %w", e.what(id), err)
	}
	if err := e.removeStreams(id); err != nil || keep {
		return err
	}
	return e.removeRecord(ctx, record.ID, record.Snapshotter, record.SnapshotKey)
}

// Forsake implements engine.Engine.
func (e *Engine) Forsake(ctx context.Context, id string) error {
	record, err := e.forsake(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	e.holdNetwork(ctx, record)
	return nil
}

// forsake fetches the record and stops containerd's restart monitor from reviving the dead.
func (e *Engine) forsake(ctx context.Context, id string) (containers.Container, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	record, err := e.record(ctx, id)
	if err != nil {
		return record, err
	}
	record.Labels = shownLabels(record.Labels)
	if _, monitored := record.Labels[restartStatus]; !monitored {
		return record, nil
	}
	record.Labels[restartStatus] = "stopped"
	record.Labels[restartExplicit] = "true"
	if err := e.updateLabels(ctx, record); err != nil {
		return record, fmt.Errorf("turn off the restart policy of %s: %w", e.what(id), err)
	}
	return record, nil
}

// removeNetwork takes the container's attachments and its namespace away; refill leaves an empty one.
func (e *Engine) removeNetwork(ctx context.Context, record containers.Container, refill bool) error {
	path := netnsPath(record)
	if path == "" {
		return e.removeUnnamed(ctx, record)
	}
	if validNetNS(path) != nil {
		return nil
	}
	attached, err := e.cni.Recorded(path)
	if err != nil {
		return err
	}
	var errs []error
	for _, a := range attached {
		errs = append(errs, e.cni.Detach(ctx, path, a))
	}
	errs = append(errs, e.cni.Forget(path), cni.RemoveNamespace(path))
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if refill {
		return cni.NewNamespace(path)
	}
	return nil
}

// removeRecord deletes record and snapshot. The image stays.
func (e *Engine) removeRecord(ctx context.Context, id, snapshotter, key string) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if err := removeSnapshot(ctx, e.snapshotter(snapshotter), key); err != nil {
		return err
	}
	if err := e.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete %s: %w", e.what(id), err)
	}
	return nil
}

func removeSnapshot(ctx context.Context, s snapshots.Snapshotter, key string) error {
	if key == "" {
		return nil
	}
	if err := s.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	return nil
}
