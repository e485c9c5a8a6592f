package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"migrate/testbed/internal/cgroup"
)

// downTimeout bounds taking a testbed down: past it something is stuck in the kernel.
const downTimeout = 30 * time.Second

// Down takes the testbed away with all that ran in it.
func (t *Testbed) Down(ctx context.Context) error { return Down(ctx, t.Name) }

// Down takes a testbed away by its name, complete or not, crashed or not. It is no
// error if there is none.
func Down(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	at := place{name}
	unlock, err := lockDir(ctx, at.run())
	if err != nil {
		return err
	}
	defer unlock()
	return remove(ctx, at)
}

// remove takes the testbed away, its run directory included. Its lock must be held.
func remove(ctx context.Context, at place) error {
	if err := clear(ctx, at); err != nil {
		return err
	}
	if err := os.RemoveAll(at.run()); err != nil {
		return fmt.Errorf("take testbed %s down: %w", at.name, err)
	}
	// Other testbeds may have theirs there.
	for _, dir := range []string{runDir, dataDir()} {
		_ = os.Remove(dir)
	}
	return nil
}

// clear ends all processes of the testbed and removes all that it had. Namespaces,
// with their mounts and links, go with their processes.
func clear(ctx context.Context, at place) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	tree, err := cgroup.At(at.cgroup())
	if err != nil {
		return err
	}
	if err := errors.Join(tree.Kill(ctx), killStrays(ctx, at)); err != nil {
		return fmt.Errorf("take testbed %s down: %w", at.name, err)
	}
	if err := tree.Remove(ctx); err != nil {
		return fmt.Errorf("take testbed %s down: %w", at.name, err)
	}
	if err := os.RemoveAll(at.data()); err != nil {
		return fmt.Errorf("take testbed %s down: %w", at.name, err)
	}
	if err := os.RemoveAll(at.state()); err != nil {
		return fmt.Errorf("take testbed %s down: %w", at.name, err)
	}
	return nil
}
