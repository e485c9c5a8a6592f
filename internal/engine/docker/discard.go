package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
)

// Discard implements engine.Engine. The directory of the migration is made before anything else and goes last, so that without it
// there is nothing to take away. A container of that name is the migration's own if it names its CRIU configuration.
func (e *Engine) Discard(ctx context.Context, c *engine.Container, id string) error {
	if !migrations.MatchString(id) {
		return fmt.Errorf("migration id %q is not one", id)
	}
	dir := filepath.Join(e.opts.Spool, id)
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look for what migration %s left: %w", id, err)
	}
	if _, err := os.Stat(filepath.Join(dir, createFile)); err == nil {
		e.awaitCreated(ctx, c.ID)
	}
	if err := e.discardContainer(ctx, c, id); err != nil {
		return err
	}
	if names, err := os.ReadFile(filepath.Join(dir, volumeFile)); err == nil {
		if err := e.dropVolumes(strings.Fields(string(names)))(ctx); err != nil {
			return err
		}
	}
	if raw, err := os.ReadFile(filepath.Join(dir, loadedFile)); err == nil {
		if image, err := digest.Parse(string(raw)); err == nil {
			if err := e.removeImage(image)(ctx); err != nil {
				return err
			}
		}
	}
	return e.Release(ctx, id)
}

// awaitCreated gives a daemon the time to make a container that somebody has asked for who died: it is there when it is complete.
func (e *Engine) awaitCreated(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, createPatience)
	defer cancel()
	for {
		if _, err := e.look(ctx, name); !errors.Is(err, engine.ErrNotFound) {
			return
		}
		select {
		case <-time.After(createPoll):
		case <-ctx.Done():
			return
		}
	}
}

const (
	createPatience = 10 * time.Second
	createPoll     = 100 * time.Millisecond
)

func (e *Engine) discardContainer(ctx context.Context, c *engine.Container, id string) error {
	if err := validName(c.ID); err != nil {
		return err
	}
	r, err := e.look(ctx, c.ID)
	if errors.Is(err, engine.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if !strings.Contains(filepath.Base(r.HostConfig.Annotations[criuAnnotation]), id) {
		return nil
	}
	return e.remove(r.ID)(ctx)
}

// Release implements engine.Engine.
func (e *Engine) Release(ctx context.Context, id string) error {
	if !migrations.MatchString(id) {
		return fmt.Errorf("migration id %q is not one", id)
	}
	ctx, cancel := e.call(ctx, killLimit)
	defer cancel()
	if err := e.store.release(ctx, id); err != nil {
		return err
	}
	return removeSpool(filepath.Join(e.opts.Spool, id))
}
