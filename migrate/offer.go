package migrate

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/proto"
	"migrate/internal/shmem"
	"migrate/internal/track"
	"migrate/layers"
)

// inspect finds out what the container is, locks it for this migration and refuses what cannot be moved.
func (s *sender) inspect(ctx context.Context) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, engineLimit)
	defer cancel()
	if err := s.describe(ctx); err != nil {
		return err
	}
	if err := s.preflight(ctx); err != nil {
		return err
	}
	return s.planStorage(ctx)
}

// take locks the container.
func (s *sender) take(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	var unlock engine.Undo
	if s.held, unlock, err = s.eng.Lock(ctx, s.opt.Container); err != nil {
		return err
	}
	s.push("unlock container", unlock)
	return nil
}

// describe asks the engine what the container is, and makes of that what it is to be.
func (s *sender) describe(ctx context.Context) (err error) {
	var info errgroup.Group // both take a while, and the one has nothing to do with the other
	info.Go(func() (err error) {
		s.offer.Source, err = s.eng.Info(ctx)
		return err
	})
	s.c, s.h, err = s.eng.Inspect(ctx, s.opt.Container)
	ierr := info.Wait()
	if err != nil {
		return s.unlessGiven(err)
	}
	s.rep.Container, s.rep.Namespace = s.c.ID, s.c.Namespace
	if s.h.CgroupFreeze != "" {
		s.started, _ = startOf(s.h.Pid)
	}
	if ierr != nil {
		return ierr
	}
	return s.planNetwork()
}

// sameRun says whether the container's first process is still the one that was looked at: an engine may have started it anew meanwhile.
func (s *sender) sameRun() error {
	if s.started == "" {
		return nil // there is nothing that could be frozen
	}
	if start, err := startOf(s.h.Pid); err == nil && start == s.started {
		return nil
	}
	return &fail.Fault{Code: fail.Container, What: fmt.Sprintf("move container %q", s.c.ID), Where: "source",
		Why: "it has ended, or was started anew, since the migration began, as by a restart of its engine", Remedy: "try again"}
}

// propose offers the container and receives what the destination lacks. The returned context ends when the destination
// gives up or the session fails.
func (s *sender) propose(ctx context.Context) (_ context.Context, err error) {
	if err := s.size(ctx); err != nil {
		return ctx, err
	}
	if err := s.checkMemory(); err != nil {
		return ctx, err
	}
	if s.sess, err = s.opt.Dial(ctx); err != nil {
		return ctx, err
	}
	s.offer.Lanes = s.sess.Lanes()
	s.inbox, ctx, s.cancel = proto.NewInbox(ctx, s.sess)
	if err := proto.Send(ctx, s.sess, proto.Offer, s.offer); err != nil {
		return ctx, err
	}
	if err := s.m.On(handover.EvOffer); err != nil {
		return ctx, err
	}
	if err := s.inbox.Recv(ctx, proto.Prepared, &s.ready); err != nil {
		return ctx, err
	}
	s.rep.Name = s.ready.ID
	s.note(proto.Findings(s.ready.Findings))
	return ctx, nil
}

// size completes the offer with how much there is to move.
func (s *sender) size(ctx context.Context) error {
	use, err := layers.Measure(ctx, s.h.Upper)
	if err != nil {
		return fmt.Errorf("measure the RW layer: %w", err)
	}
	host, _ := os.Hostname() // only for messages
	s.offer.Container, s.offer.Name, s.offer.Host = *s.c, s.opt.Name, host
	s.offer.Files, s.offer.Entries = use.Bytes, use.Entries
	if s.offer.Memory, err = memoryOf(s.h.Pids); err != nil {
		return fmt.Errorf("measure the container's memory: %w", err)
	}
	if err := s.chooseMode(); err != nil {
		return err
	}
	s.offer.CloseTCP = s.opt.TCP == criu.TCPClose
	s.offer.HoldLimit = s.opt.Timeout
	if s.stays() {
		s.offer.Recover = s.opt.Memory.Recover
	}
	s.offer.Ignore = s.opt.Ignore
	return nil
}

// checkMemory: the image set is a second copy of the container's memory until the destination has it, or of what of it has to be there before
// the processes run.
func (s *sender) checkMemory() error {
	short, err := s.memoryShort()
	if err != nil || short == "" {
		return err
	}
	return &fail.Fault{Code: fail.Space, What: "reserve memory for the checkpoint", Where: "source", Why: short, Remedy: "free memory at the source"}
}

// tableShare is how many bytes of memory there are for one of what is known here of the destination's store: 24 bytes a page.
const tableShare = 170

// memoryOf estimates how many bytes of memory the container has. Shared memory that nobody maps is some of it.
func memoryOf(pids []int) (int64, error) {
	set, err := shmem.NewSet()
	if err != nil {
		return 0, err
	}
	defer set.Close()
	objects, err := set.Find(pids)
	if err != nil {
		return 0, err
	}
	var shared int64
	for _, o := range objects {
		data, _, err := o.Data()
		if err != nil {
			return 0, err
		}
		shared += int64(track.Bytes(data))
	}
	return criu.MemoryOf(pids) + max(shared-criu.SharedMemoryOf(pids), 0), nil
}
