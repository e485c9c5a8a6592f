package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// Register implements engine.Engine. The daemon creates the container with everything but its restart policy, which is held back
// until Adopt: a daemon that is started meanwhile would start it afresh.
func (e *Engine) Register(ctx context.Context, c *engine.Container, spec json.RawMessage) (engine.Undo, error) {
	create, err := e.createRequest(ctx, c, spec)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", what(c.ID), err)
	}
	volumes, err := e.newVolumes(ctx, create.HostConfig.Mounts)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", what(c.ID), err)
	}
	made, err := e.announceCreate(ctx)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", what(c.ID), err)
	}
	defer made()
	// a daemon that nobody waits for any more would make it all the same
	cctx, cancel := e.call(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	res, err := e.api.ContainerCreate(cctx, *create)
	if errdefs.IsConflict(err) {
		return nil, fmt.Errorf("create %s: %w", what(c.ID), engine.ErrExists)
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", what(c.ID), err), e.dropVolumes(volumes)(context.WithoutCancel(ctx)))
	}
	for _, w := range res.Warnings {
		e.log.Warn("Docker warns", "container", c.ID, "warning", w)
	}
	remove := e.remove(res.ID)
	undo := local.Once(func(ctx context.Context) error {
		if err := remove(ctx); err != nil {
			return err
		}
		return e.dropVolumes(volumes)(ctx)
	})
	if ctx.Err() != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", what(c.ID), context.Cause(ctx)), undo(context.WithoutCancel(ctx)))
	}
	return undo, nil
}

// announceCreate notes, until made is called, that the daemon is about to make the container: should this process die, it goes on with that.
func (e *Engine) announceCreate(ctx context.Context) (made func(), err error) {
	dir, held := spoolOf(ctx)
	if !held {
		return func() {}, nil
	}
	mark := filepath.Join(dir, createFile)
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return nil, fmt.Errorf("note that it is being created: %w", err)
	}
	return func() { _ = os.Remove(mark) }, nil // or it goes with the directory
}

// createRequest makes the request from a peer's description.
func (e *Engine) createRequest(ctx context.Context, c *engine.Container, spec json.RawMessage) (*client.ContainerCreateOptions, error) {
	if err := validName(c.ID); err != nil {
		return nil, err
	}
	o, err := decodeOptions(c)
	if err != nil {
		return nil, err
	}
	s, err := decodeSpec(spec)
	if err != nil {
		return nil, err
	}
	host, err := safeHostConfig(o.HostConfig, s)
	if err != nil {
		return nil, err
	}
	if err := bindLater(host); err != nil {
		return nil, err
	}
	switch c.Network.Mode {
	case engine.NetworkHost:
		host.NetworkMode = "host"
	case engine.NetworkNone:
		host.NetworkMode = "none"
	case engine.NetworkJoined:
		host.NetworkMode = container.NetworkMode("container:" + c.Network.Owner)
	}
	host.Annotations[criuAnnotation] = s.Annotations[criuAnnotation]
	if host.Annotations[criuAnnotation] == "" {
		delete(host.Annotations, criuAnnotation)
	}
	networks, err := wishes(c.Network, o.Endpoints)
	if err != nil {
		return nil, err
	}
	config := *o.Config
	config.Labels, config.Volumes = c.Labels, nil
	if c.Network.Mode == engine.NetworkHost || c.Network.Mode == engine.NetworkJoined {
		config.Hostname, config.Domainname = "", "" // the daemon takes no other than the owner's
	}
	if config.Image, err = e.imageFor(ctx, c.Image); err != nil {
		return nil, err
	}
	if config.Image != c.Image.Name {
		host.Annotations[imageAnnotation] = c.Image.Name
	}
	return &client.ContainerCreateOptions{Config: &config, HostConfig: host, NetworkingConfig: networks, Name: c.ID}, nil
}

// imageFor is the image's own name where that means the same image, else its id.
func (e *Engine) imageFor(ctx context.Context, img engine.Image) (string, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	res, err := e.api.ImageInspect(ctx, img.Name)
	if err == nil && e.store.is(ctx, res.ID, img) {
		return img.Name, nil
	}
	id, err := e.store.find(ctx, img)
	if err == nil && id == "" {
		err = fmt.Errorf("image %q is gone", img.Name)
	}
	return id.String(), err
}

// newVolumes lists the named volumes that the daemon makes for the container.
func (e *Engine) newVolumes(ctx context.Context, mounts []mount.Mount) (made []string, err error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	for _, m := range mounts {
		if m.Type != mount.TypeVolume {
			continue
		}
		_, err := e.api.VolumeInspect(ctx, m.Source, client.VolumeInspectOptions{})
		if errdefs.IsNotFound(err) {
			made = append(made, m.Source)
		} else if err != nil {
			return nil, fmt.Errorf("look up volume %q: %w", m.Source, err)
		}
	}
	if dir, held := spoolOf(ctx); held && len(made) > 0 {
		if err := os.WriteFile(filepath.Join(dir, volumeFile), []byte(strings.Join(made, "\n")), 0o600); err != nil {
			return nil, fmt.Errorf("note the container's volumes: %w", err)
		}
	}
	return made, nil
}

func (e *Engine) dropVolumes(names []string) engine.Undo {
	return func(ctx context.Context) error {
		ctx, cancel := e.call(ctx, callLimit)
		defer cancel()
		var errs []error
		for _, name := range names {
			if _, err := e.api.VolumeRemove(ctx, name, client.VolumeRemoveOptions{}); err != nil && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("remove volume %q: %w", name, err))
			}
		}
		return errors.Join(errs...)
	}
}

// PrepareRootfs implements engine.Engine: the daemon made the root file system with the container.
func (e *Engine) PrepareRootfs(ctx context.Context, c *engine.Container) (string, engine.Undo, error) {
	r, err := e.look(ctx, c.ID)
	if err != nil {
		return "", nil, err
	}
	upper, err := e.store.upper(ctx, r)
	return upper, local.Nothing, err
}

// upper is the container's RW layer.
func (s *overlayStore) upper(_ context.Context, r *container.InspectResponse) (string, error) {
	if r.GraphDriver == nil || r.GraphDriver.Data["UpperDir"] == "" {
		return "", fmt.Errorf("%s has no directory for what it changes: %w", what(nameOf(r)), engine.ErrUnsupported)
	}
	return r.GraphDriver.Data["UpperDir"], nil
}

// jsonLog is the log driver that keeps output in one file, which can be carried along. What was rotated away stays behind.
const jsonLog = "json-file"

// OutputLog implements engine.Engine. The daemon notes the path when it starts the container (moby, daemon/logs.go), and appends to
// what is there.
func (e *Engine) OutputLog(ctx context.Context, c *engine.Container) (string, error) {
	r, err := e.look(ctx, c.ID)
	if err != nil || r.HostConfig.LogConfig.Type != jsonLog {
		return "", err
	}
	return filepath.Join(e.containerDir(r.ID), r.ID+"-json.log"), nil
}
