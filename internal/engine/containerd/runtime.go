package containerd

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"

	"migrate/internal/engine"
	"migrate/internal/shim/sign"
)

// restores says whether the shim of that name restores with runc.
func restores(runtime string) bool {
	return strings.HasPrefix(runtime, runtimePrefix) || runtime == sign.Name
}

// shims are what is known of shims that restore when a task is created, and not when it is started, and the tasks that therefore wait to
// be created until everything is there that they are restored from.
type shims struct {
	mu      sync.Mutex
	holds   map[string]bool // by runtime
	waiting map[string]func(context.Context) error
}

// askRuntime looks whether the shim is there, and what it says of itself.
func (e *Engine) askRuntime(ctx context.Context, runtime string) (holds bool, err error) {
	e.shims.mu.Lock()
	defer e.shims.mu.Unlock()
	holds, known := e.shims.holds[runtime]
	if known {
		return holds, nil
	}
	info, err := e.client.RuntimeInfo(ctx, runtime, nil)
	switch {
	case err == nil:
		holds = info.Annotations[sign.Holds] != ""
	case !errdefs.IsNotImplemented(err): // a containerd that is older than the question
		return false, fmt.Errorf("runtime %q does not answer on this host: install its shim where containerd finds it: %w", runtime, err)
	}
	if e.shims.holds == nil {
		e.shims.holds = map[string]bool{}
	}
	e.shims.holds[runtime] = holds
	return holds, nil
}

// createTask has the shim create the task, now or when it is to be started.
func (e *Engine) createTask(ctx context.Context, c client.Container, runtime string, cp engine.Checkpoint, streams cio.Config) error {
	holds, err := e.askRuntime(ctx, runtime)
	if err != nil {
		return err
	}
	if !holds {
		return e.newTask(ctx, c, cp, streams)
	}
	e.shims.mu.Lock()
	defer e.shims.mu.Unlock()
	if e.shims.waiting == nil {
		e.shims.waiting = map[string]func(context.Context) error{}
	}
	e.shims.waiting[c.ID()] = func(ctx context.Context) error { return e.newTask(ctx, c, cp, streams) }
	return nil
}

// createWaiting creates a task that waits for it.
func (e *Engine) createWaiting(ctx context.Context, id string) error {
	create := e.takeWaiting(id)
	if create == nil {
		return nil
	}
	if err := create(ctx); err != nil {
		return fmt.Errorf("create the task of %s from its checkpoint: %w", e.what(id), err)
	}
	return nil
}

func (e *Engine) takeWaiting(id string) func(context.Context) error {
	e.shims.mu.Lock()
	defer e.shims.mu.Unlock()
	create := e.shims.waiting[id]
	delete(e.shims.waiting, id)
	return create
}
