package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/proto"
	"migrate/internal/report"
)

// commitLimit bounds the end of the source's processes after the destination has committed.
const commitLimit = 30 * time.Second

// awaitReady waits until the destination holds the restored container.
func (s *sender) awaitReady(ctx context.Context) error {
	var msg proto.ReadyMsg
	if err := s.inbox.Recv(ctx, proto.Ready, &msg); err != nil {
		return err
	}
	s.readyAt = time.Now()
	s.rep.Verified = msg.Verified
	return s.m.On(handover.EvReady)
}

// noteDoubt has the engine note that the container may soon be the destination's, while that restores it.
func (s *sender) noteDoubt(ctx context.Context) {
	e, ok := s.eng.(engine.Shielder)
	if !ok {
		return
	}
	noted := make(chan struct{})
	var err error
	go func() {
		defer close(noted)
		err = e.Doubt(ctx, s.c.ID)
	}()
	s.doubted = func() error { <-noted; return err }
}

// handOver sends GO and learns the outcome. From the moment GO may have left, neither cancellation nor time-outs count:
// the container stays frozen until the destination's word is known.
func (s *sender) handOver(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := s.doubted(); err != nil {
		return err
	}
	if err := s.dump.PointOfNoReturn(); err != nil {
		return err
	}
	if err := s.m.On(handover.EvGo); err != nil {
		return err
	}
	s.goAt = time.Now()
	var msg proto.CommittedMsg
	err := s.sendGo(context.WithoutCancel(ctx), &msg)
	if err != nil {
		err = s.settle(s.user, err, &msg)
	}
	if err != nil {
		return err
	}
	s.committed(msg)
	if s.stays() {
		return s.m.On(handover.EvLeaves)
	}
	return s.m.On(handover.EvCommitted)
}

// sendGo sends GO and waits for the answer as long as the session lives, but no longer than a hold may last.
func (s *sender) sendGo(ctx context.Context, msg *proto.CommittedMsg) error {
	ctx, cancel := context.WithTimeout(ctx, s.opt.Timeout)
	defer cancel()
	if err := proto.Send(ctx, s.sess, proto.Go, nil); err != nil {
		return err
	}
	return s.inbox.Recv(ctx, proto.Committed, msg)
}

// settle asks the destination for the outcome until it answers. An ABORT on the session is an answer too.
func (s *sender) settle(ctx context.Context, err error, msg *proto.CommittedMsg) error {
	var ab *proto.AbortError
	if !errors.As(err, &ab) {
		s.clock.Note(fmt.Sprintf("GO was sent and no answer came (%v); the container stays frozen, asking the destination", err))
	}
	for !errors.As(err, &ab) {
		var out proto.OutcomeMsg
		out, err = s.ask(context.WithoutCancel(ctx))
		switch {
		case err == nil && out.Result == proto.OutcomeCommitted:
			*msg = out.Commit
			return nil
		case err == nil && out.Result == proto.OutcomeAborted:
			err = &proto.AbortError{Fault: &fail.Fault{Code: fail.Restore, What: "the destination gave the container up after GO",
				Where: "destination", Why: "the link broke before GO arrived, or the restore failed", Remedy: "try again"}}
			continue
		case err == nil:
			err = errors.New("the restore is still under way")
		}
		if errors.As(s.inbox.Cause(), &ab) {
			break // it did come, late
		}
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return s.inDoubt(err)
		}
	}
	if err := s.m.On(handover.EvAborted); err != nil {
		return err
	}
	return ab
}

const (
	askEvery = time.Second
	askLimit = 15 * time.Second
)

// ask makes a new session and queries the outcome there.
func (s *sender) ask(ctx context.Context) (out proto.OutcomeMsg, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	sess, err := s.opt.Dial(ctx)
	if err != nil {
		return out, err
	}
	defer sess.Close()
	in, inCtx, stop := proto.NewInbox(ctx, sess)
	defer stop(nil)
	// not under the inbox's context: that ends when the peer has answered and left, which may be before this returns
	if err := proto.Send(ctx, sess, proto.Query, proto.QueryMsg{ID: s.offer.ID, Epoch: s.offer.Epoch}); err != nil {
		return out, err
	}
	err = in.Recv(inCtx, proto.Outcome, &out)
	return out, err
}

// inDoubt is what is left when the user ends the wait for the destination's word.
func (s *sender) inDoubt(err error) error {
	s.rep.Result = report.InDoubt
	// the memory is still in the frozen processes: the image set is of no use any more, and nothing may hold on to it
	s.dropThaw()
	if uerr := s.unwind(); uerr != nil {
		s.log.Warn("clean up", "err", uerr)
	}
	return &fail.Fault{
		Code: fail.InDoubt, What: "the outcome of the migration is not known", Where: "hand-over, after GO", Why: err.Error(), Err: err,
		Remedy: fmt.Sprintf("find out at the destination whether container %q runs there. If it does, delete it here; "+
			"if it does not and never will, run `migrate thaw %s` here", s.ready.ID, s.c.ID),
		State: fmt.Sprintf("container %q is frozen here with its network locked, so that no two copies run", s.c.ID),
	}
}

// committed measures the downtime. Only durations cross the wire, so that the hosts' clocks need not agree.
func (s *sender) committed(msg proto.CommittedMsg) {
	now := time.Now()
	lag := time.Duration(max(msg.LagMS, 0) * float64(time.Millisecond))
	s.doneAt = now.Add(-min(max(lag, 0), now.Sub(s.goAt))) // whatever the peer says, it did not run before GO
	s.rep.Result, s.rep.Pid, s.rep.RestoreMS, s.rep.Addresses = report.Moved, msg.Pid, msg.StepsMS, msg.Addresses
}

// finish sends what memory is still here, ends the frozen processes, deletes the source's copy and tells the destination.
func (s *sender) finish(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	s.noteGiven()
	lost := s.serve(ctx)
	s.clock.Enter(report.Finish)
	cctx, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	// of a container that was lost what is left may be of use, and nothing of it runs
	err := s.retire(cctx, s.opt.KeepSource || lost != nil)
	s.dropThaw()
	if lost == nil {
		s.leaveVolumes()
	}
	if s.lock != nil {
		s.lock.Close()
	}
	switch serr := proto.Send(cctx, s.sess, proto.Released, proto.ReleasedMsg{Lost: whyLost(lost)}); {
	case lost != nil:
	case serr != nil:
		s.log.Warn("tell the destination that the source is released", "err", serr)
	default:
		lost = s.awaitDone(ctx)
	}
	uerr := s.unwind()
	s.closeSession()
	if err = errors.Join(err, uerr); err != nil && lost != nil {
		s.log.Error("clean up", "err", err)
	} else if err != nil {
		return &fail.Fault{
			Code: fail.Unfinished, What: "the container moved, but its copy here could not be deleted", Where: "source, finish",
			Why: err.Error(), Err: err, Remedy: fmt.Sprintf("delete container %q here by hand; never start it", s.c.ID),
			State: fmt.Sprintf("container %q runs at the destination", s.ready.ID),
		}
	}
	return lost
}

// retire ends what is left of the container here. An engine that might start it anew keeps its frozen processes: where they
// are, nothing is started.
func (s *sender) retire(ctx context.Context, keep bool) error {
	err := s.eng.Forsake(ctx, s.c.ID)
	if err == nil {
		if err := s.dump.Commit(ctx, s.freezer()); err != nil {
			s.log.Warn("end the dumped processes", "err", err) // Retire ends what is left
		}
	}
	if !s.stays() {
		s.packets.finish(s.doneAt)
	}
	if err == nil {
		err = s.eng.Retire(ctx, s.c.ID, keep)
	}
	if err != nil {
		return err
	}
	return s.given.remove()
}

// awaitDone waits for the destination to fill memory and to tidy up, as long as the session lives and the user likes.
func (s *sender) awaitDone(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.user, cancel)() // the container runs there; nobody has to wait for the rest
	var msg proto.DoneMsg
	if err := s.inbox.Recv(ctx, proto.Done, &msg); err != nil {
		s.log.Warn("wait for the destination to finish", "err", err)
		return nil
	}
	s.rep.Fill = msg.Fill
	if msg.Lost == "" {
		return nil
	}
	s.rep.Result = report.Lost
	return &fail.Fault{
		Code: fail.Lost, What: "the container moved and was lost there", Where: "destination, finish", Why: msg.Lost,
		Remedy: fmt.Sprintf("start container %q anew at the destination; its files are there", s.ready.ID),
		State:  fmt.Sprintf("container %q was ended at the destination: part of its memory was never filled in", s.ready.ID),
	}
}

// dropThaw removes the undos that would thaw the container.
func (s *sender) dropThaw() {
	s.undos = slices.DeleteFunc(s.undos, func(u undo) bool { return u.what == undoThaw || u.what == undoCalm || u.what == undoShield })
}
