package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

var _ engine.Shielder = (*Engine)(nil)

// shield is a note of a restart policy that is turned off while its container is moved. It is kept where it outlives the host's next start:
// the daemon has no other place for it.
type shield struct {
	ID     string                  `json:"id"`
	Name   string                  `json:"name"`
	Policy container.RestartPolicy `json:"policy"`
	Daemon string                  `json:"daemon"`          // its incarnation at that time
	Doubt  bool                    `json:"doubt,omitempty"` // the container may have become another host's

	path string
}

const shieldSuffix = ".json"

// Shield implements engine.Engine. A daemon that is started anew ends containers that it finds, frozen ones too, unless live-restore is on, and
// starts those anew whose restart policy says so (moby, daemon/daemon.go, restore): a second copy, if the container has gone on elsewhere.
func (e *Engine) Shield(ctx context.Context, id string) (engine.Undo, error) {
	r, err := e.look(ctx, id)
	if err != nil {
		return nil, err
	}
	if r.HostConfig.RestartPolicy.IsNone() || r.HostConfig.AutoRemove {
		return local.Nothing, nil
	}
	s := &shield{ID: r.ID, Name: nameOf(r), Policy: r.HostConfig.RestartPolicy, Daemon: e.incarnation(), path: filepath.Join(e.opts.Shields, r.ID+shieldSuffix)}
	if err := s.write(); err != nil {
		return nil, fmt.Errorf("note the restart policy of %s: %w", what(id), err)
	}
	undo := local.Once(func(ctx context.Context) error { return e.Unshield(ctx, r.ID) })
	// a daemon that nobody waits for any more would do it all the same, after the undo
	if err := e.setPolicy(context.WithoutCancel(ctx), r.ID, container.RestartPolicy{Name: container.RestartPolicyDisabled}); err != nil {
		return nil, errors.Join(fmt.Errorf("turn off the restart policy of %s: %w", what(id), err), undo(context.WithoutCancel(ctx)))
	}
	return undo, nil
}

func (e *Engine) setPolicy(ctx context.Context, id string, p container.RestartPolicy) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	_, err := e.api.ContainerUpdate(ctx, id, client.ContainerUpdateOptions{RestartPolicy: &p})
	return err
}

// Doubt implements engine.Shielder.
func (e *Engine) Doubt(_ context.Context, id string) error {
	s, err := e.shieldOf(id)
	if err != nil || s == nil {
		return err
	}
	s.Doubt = true
	if err := s.write(); err != nil {
		return fmt.Errorf("note that %s may become another host's: %w", what(id), err)
	}
	return nil
}

// Unshield implements engine.Shielder. A container that a daemon has ended when it was started is started anew, as the daemon would have
// done with the policy in force.
func (e *Engine) Unshield(ctx context.Context, id string) error {
	s, err := e.shieldOf(id)
	if err != nil || s == nil {
		return err
	}
	r, err := e.look(ctx, s.ID)
	if errors.Is(err, engine.ErrNotFound) {
		return s.remove()
	} else if err != nil {
		return fmt.Errorf("give %s its restart policy %q back: %w: once Docker answers `migrate recv`, or the next migration, does that", what(s.Name), s.Policy.Name, err)
	}
	if r.HostConfig.RestartPolicy.IsNone() { // or somebody has given it another one
		if err := e.setPolicy(ctx, r.ID, s.Policy); err != nil {
			return fmt.Errorf("give %s its restart policy %q back: %w", what(s.Name), s.Policy.Name, err)
		}
	}
	if ended(r) && restarts(s.Policy, r) && !e.stoppedByHand(s) {
		if err := e.revive(ctx, r.ID); err != nil {
			return err
		}
	}
	return s.remove()
}

// ended says whether the container has run, and does not any more.
func ended(r *container.InspectResponse) bool {
	return r.State.Status == container.StateExited
}

// restarts says whether the daemon would start the container anew.
func restarts(p container.RestartPolicy, r *container.InspectResponse) bool {
	if p.IsOnFailure() {
		return r.State.ExitCode != 0 && (p.MaximumRetryCount == 0 || r.RestartCount < p.MaximumRetryCount)
	}
	return p.IsAlways() || p.IsUnlessStopped()
}

// stoppedByHand says whether somebody has stopped the container since the shield was made. The daemon notes the same of one that it stops when
// it is started itself.
func (e *Engine) stoppedByHand(s *shield) bool {
	if s.Daemon == "" || e.incarnation() != s.Daemon {
		return false
	}
	var c struct{ HasBeenManuallyStopped bool }
	raw, err := os.ReadFile(filepath.Join(e.containerDir(s.ID), "config.v2.json"))
	return err == nil && json.Unmarshal(raw, &c) == nil && c.HasBeenManuallyStopped
}

// revive starts a container anew that was ended with the daemon.
func (e *Engine) revive(ctx context.Context, id string) error {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if _, err := e.api.ContainerStart(ctx, id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start %s anew, which has ended: %w", what(id), err)
	}
	e.log.Warn("started anew a container that has ended, as its restart policy says", "container", id)
	return nil
}

// Reclaim implements engine.Shielder. A container that stands still is left to whoever knows why.
func (e *Engine) Reclaim(ctx context.Context) error {
	all, err := e.shields()
	for _, s := range all {
		lctx, cancel := context.WithTimeout(ctx, reclaimPatience)
		_, unlock, lerr := e.Lock(lctx, s.ID) // which does it
		cancel()
		switch {
		case errors.Is(lerr, engine.ErrExists): // a migration is under way
		case errors.Is(lerr, engine.ErrNotFound):
			err = errors.Join(err, s.remove())
		case lerr != nil:
			err = errors.Join(err, lerr)
		default:
			err = errors.Join(err, unlock(ctx))
		}
	}
	return err
}

// reclaimPatience bounds the wait for the guard of an agent that died, and for the daemon.
const reclaimPatience = 40 * time.Second

// reclaim ends what a migration has left that died here with all that knew of it. The caller holds the container's lock.
func (e *Engine) reclaim(ctx context.Context, id string) error {
	s, err := e.shieldOf(id)
	if err != nil || s == nil {
		return err
	}
	r, err := e.look(ctx, s.ID)
	if err != nil {
		return err
	}
	if status(r.State) == engine.StatusPaused {
		return nil // it is in doubt, or another host's
	}
	if s.Doubt && ended(r) {
		e.log.Warn("a container has ended while it was in doubt whether it is another host's: start it by hand, if it does not run there and never will",
			"container", s.Name, "policy", s.Policy.Name)
		return nil
	}
	return e.Unshield(ctx, s.ID)
}

// shieldOf finds the note of a container by its name or id, nil if there is none.
func (e *Engine) shieldOf(id string) (*shield, error) {
	all, err := e.shields()
	for _, s := range all {
		if s.ID == id || s.Name == id {
			return s, nil
		}
	}
	return nil, err
}

func (e *Engine) shields() (list []*shield, err error) {
	files, gerr := filepath.Glob(filepath.Join(e.opts.Shields, "*"+shieldSuffix))
	if gerr != nil {
		return nil, gerr
	}
	for _, f := range files {
		s := &shield{path: f}
		raw, rerr := os.ReadFile(f)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue // its agent is done
		}
		if rerr == nil {
			rerr = json.Unmarshal(raw, s)
		}
		if rerr != nil {
			err = errors.Join(err, fmt.Errorf("read the note of a restart policy at %s: %w", f, rerr))
			continue
		}
		list = append(list, s)
	}
	return list, err
}

// write is complete, and on the disk, when it returns.
func (s *shield) write() error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	dir := filepath.Dir(s.path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "new-")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsync(fd)
}

func (s *shield) remove() error {
	if err := ignoreMissing(os.Remove(s.path)); err != nil {
		return fmt.Errorf("remove the note of a restart policy: %w", err)
	}
	return nil
}
