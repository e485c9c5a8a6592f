package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/network"
	"migrate/internal/proto"
	"migrate/internal/storage"
)

// incoming is the note of a migration that is being taken in: should its agent die, the next one finds by it what has to
// be taken away. The file is locked as long as the agent lives.
type incoming struct {
	ID        string           `json:"id"`
	Container engine.Container `json:"container"` // as it is registered here
	Stage     string           `json:"stage"`
	Config    string           `json:"config"`           // CRIU's configuration
	Places    []*storage.Place `json:"places,omitempty"` // where the content of volumes comes to

	path string
	lock *os.File
}

// note writes the record before anything is registered. An empty dir keeps no notes.
func (in *incoming) note(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("note the migration: %w", err)
	}
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("note the migration: %w", err)
	}
	in.path = filepath.Join(dir, in.ID+".json")
	if in.lock, err = os.OpenFile(in.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return fmt.Errorf("note the migration: %w", err)
	}
	if err := unix.Flock(int(in.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("lock the migration's note: %w", err), in.forget())
	}
	if _, err := in.lock.Write(b); err != nil {
		return errors.Join(fmt.Errorf("note the migration: %w", err), in.forget())
	}
	if err := in.lock.Sync(); err != nil {
		return errors.Join(fmt.Errorf("note the migration: %w", err), in.forget())
	}
	return nil
}

// rewrite brings the note up to date.
func (in *incoming) rewrite() error {
	if in.lock == nil {
		return nil
	}
	b, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("note the migration: %w", err)
	}
	// a decoder reads one value and stops: what is left of a longer one does no harm, and the note is at no time empty
	if _, err := in.lock.WriteAt(b, 0); err != nil {
		return fmt.Errorf("note the migration: %w", err)
	}
	if err := in.lock.Sync(); err != nil {
		return fmt.Errorf("note the migration: %w", err)
	}
	return nil
}

// forget removes the note; nothing is left to be taken away.
func (in *incoming) forget() error {
	if in.lock == nil {
		return nil
	}
	err := removeFile(in.path)
	in.lock.Close()
	in.lock = nil
	return err
}

// leave lets the note be found by the next agent.
func (in *incoming) leave() error {
	if in.lock == nil {
		return nil
	}
	err := in.lock.Close()
	in.lock = nil
	return err
}

// Sweep settles the migrations of agents that died: what the outcome says is running here is kept, everything else taken
// away. It is to be called before an agent serves; agents that live are left alone. What fails is logged and tried again at
// the next Sweep.
func Sweep(ctx context.Context, opt Options) error {
	log := opt.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	notes, err := filepath.Glob(filepath.Join(opt.Incoming, "*.json"))
	if err != nil || opt.Incoming == "" {
		return err
	}
	for _, path := range notes {
		in, err := readIncoming(path)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // its agent lives
		}
		if err == nil {
			err = in.settle(ctx, opt, log.With("migration", in.ID, "container", in.Container.ID))
		}
		if err != nil {
			log.Error("settle a migration whose agent died", "note", path, "err", err)
		}
	}
	pruneFiles(ctx, opt, log)
	_, err = criu.CleanStages(opt.RunDir)
	return err
}

func readIncoming(path string) (*incoming, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("read note: %w", err)
	}
	in := &incoming{path: path, lock: f}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	if err := json.NewDecoder(f).Decode(in); err != nil {
		// the agent died while it wrote, before it registered anything
		return nil, errors.Join(fmt.Errorf("read note: %w", err), in.forget())
	}
	return in, nil
}

// settle finishes what the dead agent began. After GO the container may run here: then it stays, and the record says so;
// if it does not, it never will.
func (in *incoming) settle(ctx context.Context, opt Options, log *slog.Logger) error {
	defer func() {
		if in.lock != nil {
			in.lock.Close()
		}
	}()
	outcome, err := opt.Outcomes.read(in.ID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	eng, err := opt.OpenEngine(ctx, in.Container.Engine, in.Container.Namespace)
	if err != nil {
		return err
	}
	defer eng.Close()
	runs := outcome.Result == proto.OutcomeCommitted
	if outcome.Result == proto.OutcomePending {
		_, h, err := eng.Inspect(ctx, in.Container.ID)
		switch {
		case err == nil:
			runs = true
			err = opt.Outcomes.Commit(in.ID, proto.CommittedMsg{Pid: h.Pid}, "")
		case errors.Is(err, engine.ErrPaused): // it ran, or nobody could have paused it
			runs = true
			err = opt.Outcomes.Commit(in.ID, proto.CommittedMsg{}, "")
		case errors.Is(err, engine.ErrNotFound), errors.Is(err, engine.ErrNotRunning):
			err = nil
		}
		if err != nil {
			return err // not known: nothing is destroyed, and the source is told nothing
		}
	}
	if runs {
		log.Info("the container of a dead agent runs here: kept")
		err = in.adopt(ctx, eng)
	} else {
		log.Info("taking away what a dead agent left")
		err = in.discard(ctx, eng, opt, outcome.Result == proto.OutcomePending)
	}
	if err = errors.Join(err, removeFile(in.Config)); err != nil {
		return err
	}
	return in.forget()
}

func (in *incoming) adopt(ctx context.Context, eng engine.Engine) error {
	err := eng.Adopt(ctx, &in.Container)
	for _, p := range in.Places {
		err = errors.Join(err, p.Keep())
	}
	netns := in.Container.Network.NetNS
	if in.Container.Network.Mode == engine.NetworkManaged || in.Container.Network.Unnamed {
		_, h, herr := eng.Inspect(ctx, in.Container.ID)
		if err = errors.Join(err, herr); herr == nil {
			netns = h.NetNS
		}
	}
	if netns != "" {
		err = errors.Join(err, network.RemoveStale(netns), network.Announce(netns))
	}
	return errors.Join(err, eng.Release(ctx, in.ID))
}

// discard ends the restore, should one hang, and only then says that the source may thaw.
func (in *incoming) discard(ctx context.Context, eng engine.Engine, opt Options, pending bool) error {
	if err := criu.KillUsers(in.Stage); err != nil {
		return err
	}
	if err := eng.Discard(ctx, &in.Container, in.ID); err != nil {
		return err
	}
	for _, p := range slices.Backward(in.Places) {
		if err := p.Undo(); err != nil {
			return err
		}
	}
	if pending {
		return opt.Outcomes.Abort(in.ID)
	}
	return nil
}
