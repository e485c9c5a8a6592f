package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// specType is how containerd's clients call an OCI runtime specification.
const specType = "types.containerd.io/opencontainers/runtime-spec/1/Spec"

// rawAny is an encoded value with its type, passed on without being decoded.
type rawAny struct {
	url   string
	value []byte
}

var _ typeurl.Any = rawAny{}

func (a rawAny) GetTypeUrl() string { return a.url }
func (a rawAny) GetValue() []byte   { return a.value }

// Register implements engine.Engine. Restart labels are held back until Adopt.
func (e *Engine) Register(ctx context.Context, c *engine.Container, spec json.RawMessage) (engine.Undo, error) {
	if err := validContainer(c); err != nil {
		return nil, err
	}
	if !json.Valid(spec) {
		return nil, fmt.Errorf("register %s: the specification is not JSON", e.what(c.ID))
	}
	opts, err := safeRuntimeOptions(c.RuntimeOpts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err = e.client.ContainerService().Create(ctx, containers.Container{
		ID: c.ID, Labels: recordLabels(c.Labels), Image: c.Image.Name,
		Runtime:     containers.RuntimeInfo{Name: c.Runtime, Options: opts},
		Spec:        rawAny{specType, spec},
		Snapshotter: c.Snapshotter, SnapshotKey: c.SnapshotKey, Extensions: rawAnys(c.Extensions),
	})
	if errdefs.IsAlreadyExists(err) {
		return nil, fmt.Errorf("register %s: %w", e.what(c.ID), engine.ErrExists)
	} else if err != nil {
		return nil, fmt.Errorf("register %s: %w", e.what(c.ID), err)
	}
	return local.Once(e.unregister(c.ID)), nil
}

func (e *Engine) unregister(id string) engine.Undo {
	return func(ctx context.Context) error {
		ctx, cancel := e.call(ctx, callLimit)
		defer cancel()
		if err := e.client.ContainerService().Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete %s: %w", e.what(id), err)
		}
		return nil
	}
}

func rawAnys(m map[string]engine.TypedAny) map[string]typeurl.Any {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]typeurl.Any, len(m))
	for key, a := range m {
		out[key] = rawAny{a.TypeURL, a.Value}
	}
	return out
}

// safeRuntimeOptions takes from a peer's runtime options those that say how the container is run, and leaves which
// binaries and directories do it to this host.
func safeRuntimeOptions(a *engine.TypedAny) (typeurl.Any, error) {
	if a == nil {
		return nil, nil
	}
	var theirs options.Options
	if err := typeurl.UnmarshalTo(rawAny{a.TypeURL, a.Value}, &theirs); err != nil {
		return nil, fmt.Errorf("runtime options of type %q are not runc's: %w", a.TypeURL, errors.Join(err, engine.ErrUnsupported))
	}
	ours := &options.Options{
		NoPivotRoot: theirs.NoPivotRoot, NoNewKeyring: theirs.NoNewKeyring, SystemdCgroup: theirs.SystemdCgroup,
		IoUid: theirs.IoUid, IoGid: theirs.IoGid,
	}
	out, err := typeurl.MarshalAny(ours)
	if err != nil {
		return nil, fmt.Errorf("encode runtime options: %w", err)
	}
	return out, nil
}
