package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// subject is a container while it is being inspected.
type subject struct {
	record *container.InspectResponse
	state  *local.RuncState
	spec   *specs.Spec
	bundle string
}

// look asks the daemon for a container by name or id.
func (e *Engine) look(ctx context.Context, id string) (*container.InspectResponse, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	res, err := e.api.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) || id == "" {
		return nil, fmt.Errorf("%s: %w: see `docker ps -a`", what(id), engine.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", what(id), err)
	}
	c := &res.Container
	if c.State == nil || c.HostConfig == nil || c.Config == nil || c.NetworkSettings == nil {
		return nil, fmt.Errorf("look up %s: the daemon's answer is incomplete", what(id))
	}
	return c, nil
}

func nameOf(c *container.InspectResponse) string { return strings.TrimPrefix(c.Name, "/") }

// status translates the daemon's.
func status(s *container.State) engine.Status {
	switch s.Status {
	case container.StateRunning:
		return engine.StatusRunning
	case container.StatePaused:
		return engine.StatusPaused
	case container.StateCreated:
		return engine.StatusCreated
	}
	return engine.StatusStopped
}

// Has implements engine.Engine.
func (e *Engine) Has(ctx context.Context, id string) bool {
	_, err := e.look(ctx, id)
	return !errors.Is(err, engine.ErrNotFound)
}

// Inspect implements engine.Engine.
func (e *Engine) Inspect(ctx context.Context, id string) (*engine.Container, *engine.Handles, error) {
	s, err := e.load(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	c, err := e.describe(ctx, s)
	if err != nil {
		return nil, nil, fmt.Errorf("inspect %s: %w", what(id), err)
	}
	h, err := e.handles(ctx, s, c)
	if err != nil {
		return nil, nil, fmt.Errorf("inspect %s: %w", what(id), err)
	}
	return c, h, nil
}

// load fetches what there is of a container and refuses what cannot be moved.
func (e *Engine) load(ctx context.Context, id string) (*subject, error) {
	c, err := e.look(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := checkRunning(id, status(c.State)); err != nil {
		return nil, err
	}
	s := &subject{record: c}
	if s.state, err = local.ReadRuncState(e.runtimeRoot(c.ID), c.ID); err != nil {
		return nil, fmt.Errorf("inspect %s: %w", what(id), err)
	}
	s.bundle = s.state.Bundle()
	if s.spec, err = readSpec(s.bundle); err != nil {
		return nil, fmt.Errorf("inspect %s: %w", what(id), err)
	}
	info, err := e.daemon(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.checkStorage(info); err != nil {
		return nil, err
	}
	return s, checkKind(c)
}

func checkRunning(id string, s engine.Status) error {
	switch s {
	case engine.StatusRunning:
		return nil
	case engine.StatusPaused:
		return fmt.Errorf("%s is paused, and stays what its owner made it: resume it first: %w", what(id), engine.ErrPaused)
	case engine.StatusCreated:
		return fmt.Errorf("%s was created but never started: start it first: %w", what(id), engine.ErrNotRunning)
	}
	return fmt.Errorf("%s is stopped: start it first: %w", what(id), engine.ErrNotRunning)
}

// describe makes the portable description.
func (e *Engine) describe(ctx context.Context, s *subject) (*engine.Container, error) {
	r := s.record
	image, err := e.store.describe(ctx, r)
	if err != nil {
		return nil, err
	}
	network, err := e.describeNetwork(ctx, r)
	if err != nil {
		return nil, err
	}
	spec, err := portable(s.spec, filepath.Join(e.root, "containers"))
	if err != nil {
		return nil, err
	}
	options, err := json.Marshal(optionsOf(r, network))
	if err != nil {
		return nil, fmt.Errorf("encode the container's configuration: %w", err)
	}
	created, _ := time.Parse(time.RFC3339Nano, r.Created) // only for people
	return &engine.Container{
		Engine: Name, Namespace: Namespace, ID: nameOf(r), Labels: r.Config.Labels, Image: image,
		Runtime: r.HostConfig.Runtime, Snapshotter: e.driver,
		Spec: spec, Options: options, Network: network, Created: created,
	}, nil
}
