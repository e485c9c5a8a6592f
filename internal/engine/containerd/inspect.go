package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
)

// runtimePrefix begins the names of the shims that restore with runc.
const runtimePrefix = "io.containerd.runc."

// subject is a container while it is being inspected.
type subject struct {
	record  containers.Container
	process *taskapi.Process
	spec    specs.Spec
}

// Inspect implements engine.Engine.
func (e *Engine) Inspect(ctx context.Context, id string) (*engine.Container, *engine.Handles, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	go func() { _, _ = e.baseline() }() // takes as long as all that containerd is asked for; who needs it gets the error
	s, err := e.load(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	c, err := e.describe(ctx, s)
	if err != nil {
		return nil, nil, fmt.Errorf("inspect %s: %w", e.what(id), err)
	}
	h, err := e.handles(ctx, s, c)
	if err != nil {
		return nil, nil, fmt.Errorf("inspect %s: %w", e.what(id), err)
	}
	return c, h, nil
}

// Has implements engine.Engine.
func (e *Engine) Has(ctx context.Context, id string) bool {
	if validName("container id", id) != nil {
		return false
	}
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.record(ctx, id)
	return !errors.Is(err, engine.ErrNotFound)
}

// load fetches record and task and refuses what cannot be moved.
func (e *Engine) load(ctx context.Context, id string) (*subject, error) {
	if err := validName("container id", id); err != nil {
		return nil, fmt.Errorf("%w: %w", engine.ErrNotFound, err)
	}
	record, err := e.record(ctx, id)
	if err != nil {
		return nil, err
	}
	process, err := e.process(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := e.checkRunning(id, status(process)); err != nil {
		return nil, err
	}
	s := &subject{record: record, process: process}
	if record.Spec == nil {
		return nil, fmt.Errorf("%s has no specification: %w", e.what(id), engine.ErrUnsupported)
	}
	if err := json.Unmarshal(record.Spec.GetValue(), &s.spec); err != nil {
		return nil, fmt.Errorf("decode the specification of %s: %w", e.what(id), err)
	}
	return s, e.checkKind(s)
}

// checkKind refuses containers that are made in ways a destination could not follow.
func (e *Engine) checkKind(s *subject) error {
	r := s.record
	switch {
	case !restores(r.Runtime.Name):
		return fmt.Errorf("%s runs under %s: %w: only %sv2 can be moved", e.what(r.ID), r.Runtime.Name, engine.ErrUnsupported, runtimePrefix)
	case r.SandboxID != "":
		return fmt.Errorf("%s belongs to the sandbox %s: %w: pods are moved by their orchestrator", e.what(r.ID), r.SandboxID, engine.ErrUnsupported)
	case r.SnapshotKey == "":
		return fmt.Errorf("%s has no snapshot (made with --rootfs): %w: make it from an image", e.what(r.ID), engine.ErrUnsupported)
	case r.Image == "":
		return fmt.Errorf("%s names no image: %w: make it from an image", e.what(r.ID), engine.ErrUnsupported)
	case s.spec.Linux == nil:
		return fmt.Errorf("%s is not a Linux container: %w", e.what(r.ID), engine.ErrUnsupported)
	}
	return nil
}

// describe makes the portable description.
func (e *Engine) describe(ctx context.Context, s *subject) (*engine.Container, error) {
	r := s.record
	snap, err := e.snapshotter(r.Snapshotter).Stat(ctx, r.SnapshotKey)
	if err != nil {
		return nil, fmt.Errorf("look up snapshot %q: %w", r.SnapshotKey, err)
	}
	image, err := e.describeImage(ctx, r.Image, snap.Parent)
	if err != nil {
		return nil, err
	}
	network, err := e.describeNetwork(ctx, s)
	if err != nil {
		return nil, err
	}
	return &engine.Container{
		Engine: Name, Namespace: e.opts.Namespace, ID: r.ID, Labels: shownLabels(r.Labels), Image: image,
		Runtime: r.Runtime.Name, RuntimeOpts: plainAny(r.Runtime.Options),
		Snapshotter: r.Snapshotter, SnapshotKey: r.SnapshotKey, SnapLabels: snap.Labels,
		Spec: json.RawMessage(r.Spec.GetValue()), Extensions: plainAnys(r.Extensions),
		Stdio: engine.Stdio{
			Stdin: s.process.Stdin, Stdout: s.process.Stdout, Stderr: s.process.Stderr, Terminal: s.process.Terminal,
		},
		Network: network, Created: r.CreatedAt,
	}, nil
}

func plainAny(a typeurl.Any) *engine.TypedAny {
	if a == nil || a.GetTypeUrl() == "" {
		return nil
	}
	return &engine.TypedAny{TypeURL: a.GetTypeUrl(), Value: a.GetValue()}
}

func plainAnys(m map[string]typeurl.Any) map[string]engine.TypedAny {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]engine.TypedAny, len(m))
	for key, a := range m {
		if plain := plainAny(a); plain != nil {
			out[key] = *plain
		}
	}
	return out
}
