package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/handover"
	"migrate/internal/network"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/layers"
	"migrate/transfer"
)

// stageSlack is what a stage may hold beyond the estimated memory: page tables as images, logs, and growth until
// the freeze.
const stageSlack = 256 << 20

// drainLimit bounds how long the container may run on to accept the connections that are there.
const drainLimit = 20 * time.Millisecond

// freezeAndShip stops the container, dumps it, and sends everything while it is being dumped. The container is
// held at the end, or the error says why not.
func (s *sender) freezeAndShip(ctx context.Context) error {
	s.clock.Enter(report.Freeze)
	if err := s.freeze(ctx); err != nil {
		return err
	}
	complete := make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.dump.WaitHeld(gctx); err != nil {
			return err
		}
		if err := s.freezer().Freeze(); err != nil {
			return err
		}
		if err := s.dump.Settle(); err != nil {
			return err
		}
		s.heldAt = time.Now()
		close(complete)
		s.clock.Enter(report.Ship)
		return s.shipFiles(gctx)
	})
	if s.inPlace() {
		g.Go(func() error {
			if err := s.frozenMemory(gctx); err != nil {
				return err
			}
			select {
			case <-complete:
				return s.restOfMemory(gctx)
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		})
	}
	var sizes []proto.FileSize
	g.Go(func() (err error) {
		sizes, err = s.shipPages(gctx, complete)
		return err
	})
	g.Go(func() error { return s.frozenRound(gctx, false) })
	g.Go(func() error { return s.frozenVolumes(gctx, false) })
	if err := g.Wait(); err != nil {
		return err
	}
	if s.dumpTouchedFiles() {
		if err := errors.Join(s.frozenRound(ctx, true), s.frozenVolumes(ctx, true)); err != nil {
			return err
		}
	}
	return s.seal(ctx, sizes)
}

// dumpTouchedFiles says whether the RW layer changed while it was read beside the dump: CRIU gives open files without
// a name a name for the restore, beside where they were (criu/files-reg.c, link remaps).
func (s *sender) dumpTouchedFiles() bool {
	_, err := os.Stat(filepath.Join(s.stage.Images(), "remap-fpath.img"))
	return err == nil || s.index.Unsettled() > 0 || s.unsettledVolumes()
}

// prepareDump does what can be done before the freeze.
func (s *sender) prepareDump(ctx context.Context) (err error) {
	if s.stage, err = criu.NewStage(s.opt.RunDir, s.offer.ID, 2*s.offer.Memory+stageSlack); err != nil {
		return err
	}
	s.push("free the stage", func(context.Context) error { return s.stage.Remove() })
	external, err := s.external()
	if err != nil {
		return err
	}
	s.dump, err = criu.PrepareDump(ctx, criu.DumpRequest{
		Self: s.opt.Guard, Runtime: s.h.RuntimePath, Root: s.h.RuntimeRoot, ID: s.h.RuntimeID, ConfigAt: s.h.CRIUConfig,
		ImageDir: s.stage.Images(), WorkDir: s.stage.Work(), HookDir: s.stage.Hook(),
		TCP: s.opt.TCP, Lazy: s.inPlace(), Engine: s.opt.EngineSpec, NetNS: s.h.NetNS, NetNSAt: s.h.NetNSAt, Freezer: s.h.CgroupFreeze, Stage: s.stage.Dir(),
		External: external, Keep: s.held,
	})
	if err != nil {
		return fmt.Errorf("prepare the dump: %w", err)
	}
	s.push("undo the dump", func(context.Context) error { s.dump.Abort(s.freezer(), abortLimit); return nil })
	// from here on there is a guard, which takes it back should this process die
	unshield, err := s.eng.Shield(ctx, s.c.ID)
	if err != nil {
		return err
	}
	s.push(undoShield, func(ctx context.Context) error {
		_ = s.doubted() // or its note would be made anew
		return unshield(ctx)
	})
	if err := s.sameRun(); err != nil {
		return err
	}
	return s.prepareLock()
}

// prepareLock makes the network's lock ready, and what keeps packets meanwhile.
func (s *sender) prepareLock() (err error) {
	if !s.c.Network.Own() {
		return nil
	}
	if s.lock, err = network.PrepareLock(s.h.NetNS); err != nil {
		return fmt.Errorf("prepare to lock the container's network: %w", err)
	}
	s.push("let go of the network lock", func(context.Context) error { return s.lock.Close() })
	s.preparePackets()
	if s.neighbours, err = network.Neighbours(s.h.NetNS); err != nil {
		s.log.Warn("list the container's neighbours", "err", err) // it will ask for them again
	}
	s.neighbours = s.neighboursToTell(s.neighbours)
	return nil
}

// undoThaw names the undo that is dropped once the destination owns the container.
const undoThaw = "thaw"

// undoShield names the undo that gives the container back to the engine's care. It is dropped with the thaw: the copy that is left
// is nobody's to start.
const undoShield = "give the container back to the engine's care"

// undoCalm names the undo that follows the thaw, and is dropped with it.
const undoCalm = "settle the connections"

// freeze locks the network and stops all processes, and starts the dump.
func (s *sender) freeze(ctx context.Context) (err error) {
	if err := s.endSessions(ctx); err != nil {
		return err
	}
	s.push(undoCalm, s.calm)
	// pushed before the step itself: a pause that failed half way is taken back too
	s.push(undoThaw, s.thaw)
	if err := s.refuseNew(); err != nil {
		return err
	}
	if err := s.throttler.end(); err != nil {
		return err
	}
	if err := s.pause(ctx); err != nil {
		return err
	}
	if err := s.sameRun(); err != nil {
		return err
	}
	// what it has sent before it was paused has gone out; from here on nothing does, and nothing comes in unnoticed
	if s.lock != nil {
		s.packets.keepAll()
		if err := s.lock.Shut(); err != nil {
			return fmt.Errorf("lock the container's network: %w", err)
		}
	}
	if err := s.m.On(handover.EvFreeze); err != nil {
		return err
	}
	if err := s.dump.Begin(); err != nil {
		return err
	}
	s.packets.forward(ctx)
	return proto.Send(ctx, s.sess, proto.Frozen, proto.FrozenMsg{Neighbours: s.neighbours})
}

// pause stops all processes. One that is busy in the kernel may not stop in time; the engine lets the others go on then, and it
// is tried again.
func (s *sender) pause(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, engineLimit)
	defer cancel()
	for try := 1; ; try++ {
		s.frozenAt = time.Now()
		err := s.eng.Pause(ctx, s.c.ID)
		if err == nil && try < spawnTries {
			err = s.passSpawning(ctx)
		}
		if err == nil {
			return nil
		}
		if try == pauseTries || !errors.Is(err, engine.ErrBusy) {
			return fmt.Errorf("freeze the container: %w", err)
		}
		s.log.Info("freeze the container once more", "err", err)
		if err := pause(ctx, pauseAgain); err != nil {
			return err
		}
	}
}

const (
	pauseTries = 25
	spawnTries = 10 // then it is CRIU's to say
	pauseAgain = 100 * time.Millisecond
)

// passSpawning lets the container go on if a process of it is just starting another program: its parent could not be dumped. What that
// takes is over in no time, but a compiler's driver or a shell does it all the while.
func (s *sender) passSpawning(ctx context.Context) error {
	spawning, err := s.freezer().Spawning()
	if err != nil || !spawning {
		return err
	}
	if err := s.eng.Resume(ctx, s.c.ID); err != nil {
		return fmt.Errorf("let the container go on, which is starting a program: %w", err)
	}
	return fmt.Errorf("%w: a process of it is starting another program", engine.ErrBusy)
}

// refuseNew lets no new connection begin: those that wait to be accepted cannot be dumped, and the container, which still runs,
// is given a moment to accept them.
func (s *sender) refuseNew() error {
	if s.lock == nil {
		return nil
	}
	s.packets.keepNew()
	if err := s.lock.RefuseNew(); err != nil {
		return err
	}
	if err := network.Drain(s.h.NetNS, drainLimit); err != nil {
		s.log.Warn("wait for connections to be accepted", "err", err)
	}
	return nil
}

// freezer is the container's own; CRIU thaws it once it holds the tasks.
func (s *sender) freezer() *criu.Freezer { return criu.NewFreezer(s.h.CgroupFreeze) }

// thaw takes freeze back: CRIU lets the tasks go, the cgroup is thawed, the network opened, peers are told where the
// container is.
func (s *sender) thaw(ctx context.Context) error {
	if !s.m.MayThaw() {
		return errors.New("the container is not this side's to thaw")
	}
	s.dump.Abort(s.freezer(), abortLimit)
	var errs []error
	pids, err := s.freezer().Tasks()
	if err := errors.Join(err, criu.RepairOff(pids)); err != nil {
		errs = append(errs, fmt.Errorf("give connections back: %w", err))
	}
	if s.lock != nil {
		if err := s.lock.Open(); err != nil {
			s.log.Warn("open the container's network", "err", err) // it is removed below
		}
		if err := s.packets.giveBack(); err != nil {
			s.log.Warn("peers have to send again", "err", err)
		}
	}
	if err := s.resume(ctx); err != nil {
		errs = append(errs, err)
	}
	if s.lock != nil {
		if err := s.lock.Remove(); err != nil {
			errs = append(errs, fmt.Errorf("open the container's network: %w", err))
		}
		// the destination may have announced itself already
		if err := network.Announce(s.h.NetNS); err != nil {
			s.log.Warn("announce the container", "err", err)
		}
	}
	return errors.Join(errs...)
}

// calm ends what is left of the network lock once the container runs again.
func (s *sender) calm(context.Context) error {
	if s.lock == nil {
		return nil
	}
	return network.Settle(s.h.NetNS, calmLimit)
}

// calmLimit bounds the wait for connections to get through again after a thaw.
const calmLimit = 5 * time.Second

// resume asks the engine until it does so, since it may just be starting again, and thaws the cgroup without it in the
// end: a container that runs while its engine calls it paused is better off than one that stands still.
func (s *sender) resume(ctx context.Context) error {
	const patience, pause = 20 * time.Second, 500 * time.Millisecond
	for end := time.Now().Add(patience); ; {
		err := s.eng.Resume(ctx, s.c.ID)
		if err == nil {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil || errors.Is(err, engine.ErrNotFound) || errors.Is(err, engine.ErrNotRunning) {
			err = fmt.Errorf("thaw the container: %w", err)
			return errors.Join(err, s.freezer().Thaw())
		}
		time.Sleep(pause)
	}
}

// shipPages sends memory while CRIU writes it.
func (s *sender) shipPages(ctx context.Context, complete <-chan struct{}) ([]proto.FileSize, error) {
	if s.dump.Alters() {
		select {
		case <-complete:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	files, err := criu.Follow(ctx, s.stage.Images(), s.sess.Lanes(), complete, func(name string) (criu.Placer, error) {
		w, err := s.open(ctx, proto.StreamPages, proto.FileMeta{Name: name}, s.opt.Codec)
		if err != nil {
			return nil, err
		}
		return &sealedWriter{w, s.account(proto.StreamPages, &s.rep.Memory)}, nil
	})
	if err != nil {
		return nil, err
	}
	sizes := make([]proto.FileSize, len(files))
	for i, f := range files {
		sizes[i] = proto.FileSize{Name: f.Name, Size: f.Size}
	}
	return sizes, nil
}

// shipFiles sends the rest of the image set once it is complete.
func (s *sender) shipFiles(ctx context.Context) error {
	w, err := s.open(ctx, proto.StreamFiles, struct{}{}, s.opt.Codec)
	if err != nil {
		return err
	}
	if _, _, err := criu.WriteFiles(w, s.stage.Images()); err != nil {
		w.Reset(resetFailed)
		return err
	}
	return (&sealedWriter{w, s.account(proto.StreamFiles, &s.rep.Memory)}).Close()
}

// frozenRound sends what changed in the RW layer since the round before. The container can change nothing any more;
// settled says that CRIU is done as well.
func (s *sender) frozenRound(ctx context.Context, settled bool) error {
	w, err := s.open(ctx, proto.StreamRW, proto.RoundMeta{Frozen: true}, s.opt.Codec)
	if err != nil {
		return err
	}
	idx, _, err := layers.WriteDelta(ctx, w, s.h.Upper, s.index, layers.Options{Final: settled, Recheck: criu.SharedMappings(s.h.Pids)})
	if err != nil {
		w.Reset(resetFailed)
		return fmt.Errorf("read the RW layer: %w", err)
	}
	s.index = idx
	if err := (&sealedWriter{w, s.account(proto.StreamRW, &s.rep.Files)}).Close(); err != nil {
		return fmt.Errorf("send the RW layer: %w", err)
	}
	return nil
}

// seal closes the content.
func (s *sender) seal(ctx context.Context, sizes []proto.FileSize) error {
	msg := proto.SealedMsg{Files: sizes, Streams: len(s.streams), Root: proto.Root(s.streams), Remote: s.left(), Shared: s.describeShared()}
	if err := proto.Send(ctx, s.sess, proto.Sealed, msg); err != nil {
		return err
	}
	s.sealedAt = time.Now()
	s.noteDoubt(ctx)
	if err := s.m.On(handover.EvSeal); err != nil {
		return err
	}
	s.beginServing(ctx)
	return nil
}

// sealedWriter is a bulk stream whose hash becomes part of the seal.
type sealedWriter struct {
	*transfer.StreamWriter
	account func(*transfer.StreamWriter)
}

// Close ends the stream and accounts for it.
func (w *sealedWriter) Close() error {
	if err := w.StreamWriter.Close(); err != nil {
		return err
	}
	w.account(w.StreamWriter)
	return nil
}

// account returns a function that adds a finished stream to the seal and its bytes to a volume.
func (s *sender) account(kind uint16, v *report.Volume) func(*transfer.StreamWriter) {
	return func(w *transfer.StreamWriter) {
		st := w.Stats()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams = append(s.streams, proto.StreamSum{ID: w.ID(), Kind: kind, Bytes: uint64(st.Raw), Sum: w.Sum()})
		add(v, st)
	}
}
