package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// checkpointName is what a container's checkpoint is called while it is restored.
const checkpointName = "migrate"

func (e *Engine) checkpointDir(id string) string {
	return filepath.Join(e.containerDir(id), "checkpoints", checkpointName)
}

// PrepareTask implements engine.Engine. The daemon takes checkpoints from the container's own directory only: the image set is
// shown there, with a file that names the container. Output goes where the container's log driver takes it.
func (e *Engine) PrepareTask(ctx context.Context, c *engine.Container, cp engine.Checkpoint) (engine.Undo, error) {
	r, err := e.look(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	id := r.ID
	undo := local.Once(func(ctx context.Context) error {
		if err := e.end(ctx, id); err != nil {
			return err
		}
		return e.dropCheckpoint(id)
	})
	err = markCheckpoint(cp.ImagePath, id)
	if err == nil {
		err = showCheckpoint(cp.ImagePath, e.checkpointDir(id))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the restore of %s: %w", what(c.ID), err), undo(context.WithoutCancel(ctx)))
	}
	return undo, nil
}

func showCheckpoint(from, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of the checkpoint: %w", err)
	}
	if err := unix.Mount(from, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show the checkpoint at %s: %w", dir, err)
	}
	return nil
}

// dropCheckpoint takes away what a restore needed of the container's checkpoint. It is idempotent.
func (e *Engine) dropCheckpoint(id string) error {
	return errors.Join(hideCheckpoint(e.checkpointDir(id)), removeUnpacked(e.unpackedDirs(), id))
}

func hideCheckpoint(dir string) error {
	for {
		err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount the checkpoint at %s: %w", dir, err)
		}
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove the directory of the checkpoint: %w", err)
		}
	}
	return nil
}

// StartTask implements engine.Engine. The daemon answers when the processes run, or when the restore failed.
func (e *Engine) StartTask(ctx context.Context, c *engine.Container) (int, error) {
	began := time.Now()
	_, err := e.api.ContainerStart(ctx, c.ID, client.ContainerStartOptions{CheckpointID: checkpointName})
	if err != nil {
		return 0, fmt.Errorf("start %s from its checkpoint: %w", what(c.ID), err)
	}
	r, err := e.look(ctx, c.ID)
	if err != nil {
		return 0, err
	}
	e.log.Info("container restored", "container", c.ID, "pid", r.State.Pid, "took", time.Since(began))
	return r.State.Pid, nil
}
