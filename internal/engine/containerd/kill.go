package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// killPoll is how often a killed task is looked at; tryLimit bounds one call to a shim that may be busy restoring.
const (
	killPoll = 20 * time.Millisecond
	tryLimit = 3 * time.Second
)

// removeTask kills all processes of the container and deletes its task, whatever state it is in: frozen (runc thaws for
// SIGKILL), dead already, or created from a checkpoint and never started. No task is no error. root is runc's.
func (e *Engine) removeTask(ctx context.Context, id, root string) error {
	ctx, cancel := e.call(ctx, killLimit)
	defer cancel()
	for {
		gone, err := e.tryRemove(ctx, id)
		if gone {
			return local.RemoveRestoreRoot(filepath.Join(root, id))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the task of %s: %w (last: %v): see `ctr -n %s task ls`",
				e.what(id), ctx.Err(), err, e.opts.Namespace)
		case <-time.After(killPoll):
		}
	}
}

// killStrayShim ends a shim that containerd does not know: one whose creation was broken off, because the agent that asked
// for it died.
func (e *Engine) killStrayShim(id string) error {
	shims, err := local.Shims(e.opts.Namespace, id)
	if err != nil || len(shims) == 0 {
		return err
	}
	for _, shim := range shims {
		if err := unix.Kill(shim.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill the stray shim %d: %w", shim.Pid, err)
		}
	}
	e.log.Warn("killed a shim that containerd does not know", "container", id)
	bundle := filepath.Join(e.opts.StateDir, "io.containerd.runtime.v2.task", e.opts.Namespace, id)
	err = unix.Unmount(filepath.Join(bundle, "rootfs"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the root file system of a stray shim: %w", err)
	}
	if err := os.RemoveAll(bundle); err != nil {
		return fmt.Errorf("remove the bundle of a stray shim: %w", err)
	}
	return nil
}

// tryRemove does one round: look, then kill or delete.
func (e *Engine) tryRemove(ctx context.Context, id string) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	p, err := e.process(ctx, id)
	if err != nil {
		return false, err
	}
	if p == nil {
		return true, nil
	}
	s := status(p)
	if s == engine.StatusStopped || s == engine.StatusCreated && p.Pid == 0 {
		_, err := e.client.TaskService().Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
		err = errgrpc.ToNative(err)
		return err == nil || errdefs.IsNotFound(err), err
	}
	_, err = e.client.TaskService().Kill(ctx, &tasks.KillRequest{ContainerID: id, Signal: uint32(syscall.SIGKILL), All: true})
	return false, errgrpc.ToNative(err)
}
