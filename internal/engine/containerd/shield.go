package containerd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/containers"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// hiddenStatus keeps the value of restartStatus while the container is hidden from containerd's restart monitor.
const hiddenStatus = "migrate/restart-status"

// monitorPass is how long a look of the monitor may take that began before a container was hidden from it: it lists them first,
// and asks for the state of each then.
const monitorPass = 250 * time.Millisecond

// Shield implements engine.Engine. The monitor looks at containers that have its label (containerd, plugins/restart/monitor.go); one
// without a task, after a reboot too, and one that was just killed it would start.
func (e *Engine) Shield(ctx context.Context, id string) (engine.Undo, error) {
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	record, err := e.record(cctx, id)
	if err != nil {
		return nil, err
	}
	value, monitored := record.Labels[restartStatus]
	if !monitored {
		return local.Nothing, nil
	}
	record.Labels[hiddenStatus] = value
	delete(record.Labels, restartStatus)
	undo := local.Once(func(ctx context.Context) error { return e.unshield(ctx, id) })
	if err := e.updateLabels(cctx, record); err != nil {
		return nil, errors.Join(fmt.Errorf("hide %s from the restart monitor: %w", e.what(id), err), undo(context.WithoutCancel(ctx)))
	}
	select {
	case <-time.After(monitorPass):
		return undo, nil
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), undo(context.WithoutCancel(ctx)))
	}
}

// unshield shows the container again. That it is gone, or was not hidden, is no error.
func (e *Engine) unshield(ctx context.Context, id string) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	record, err := e.record(ctx, id)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if _, hidden := record.Labels[hiddenStatus]; !hidden {
		return nil
	}
	record.Labels = shownLabels(record.Labels)
	if err := e.updateLabels(ctx, record); err != nil {
		return fmt.Errorf("show %s to the restart monitor again: %w", e.what(id), err)
	}
	return nil
}

func (e *Engine) updateLabels(ctx context.Context, record containers.Container) error {
	_, err := e.client.ContainerService().Update(ctx, record, "labels")
	return err
}

// shownLabels are the labels that a container has when it is not hidden.
func shownLabels(labels map[string]string) map[string]string {
	value, hidden := labels[hiddenStatus]
	if !hidden {
		return labels
	}
	out := maps.Clone(labels)
	delete(out, hiddenStatus)
	out[restartStatus] = value
	return out
}
