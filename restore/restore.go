package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"migrate/internal/criu"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/network"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/transfer"
)

// abortLimit bounds how long a held restore may take to fall after it was told to.
const abortLimit = 5 * time.Second

// receiveFrozen takes what the source sends while the container stands still, and makes network and task meanwhile.
func (r *receiver) receiveFrozen(ctx context.Context) error {
	r.clock.Enter(report.Ship)
	r.streams.openImages()
	began := time.Now()
	r.bg.Go(func() {
		err := r.prepareNetwork(ctx, r.frozen.Neighbours)
		r.step("network", began)
		r.network <- err
		if err != nil {
			r.streams.fail(err)
		}
	})
	var msg proto.SealedMsg
	came := false
	r.bg.Go(func() {
		var m proto.SealedMsg
		if err := r.inbox.Recv(ctx, proto.Sealed, &m); err != nil {
			r.streams.fail(err)
			return
		}
		r.step("receive", began)
		r.streams.update(func() { msg, came = m, true })
	})
	// a stream that fails ends the wait for SEALED, which will never come then
	if err := r.streams.wait(ctx, proto.Sealed.String(), func() bool { return came }); err != nil {
		return err
	}
	if err := r.streams.sealed(ctx, msg); err != nil {
		return err
	}
	if err := r.opt.Policy.CheckImages(r.stage.Images(), r.spec); err != nil {
		return err
	}
	if err := r.showVolumes(); err != nil {
		return err
	}
	if r.memory != nil {
		if err := r.memory.takeShared(msg.Shared); err != nil {
			return err
		}
	}
	if err := criu.MendTimers(r.stage.Images()); err != nil {
		return err
	}
	if err := criu.MendReservations(r.stage.Images()); err != nil {
		return err
	}
	if err := r.placeMemory(ctx, msg.Remote); err != nil {
		return err
	}
	return r.m.On(handover.EvSeal)
}

// awaitFrozen waits until the container that comes stands still.
func (r *receiver) awaitFrozen(ctx context.Context) error {
	return r.inbox.Recv(ctx, proto.Frozen, &r.frozen)
}

// step notes how long a part of the restore took.
func (r *receiver) step(name string, since time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps[name] = report.MS(time.Since(since))
}

// restore starts the task and returns when its processes exist and are held.
func (r *receiver) restore(ctx context.Context) error {
	select {
	case err := <-r.network:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("prepare the network: %w", context.Cause(ctx))
	}
	if !r.streams.taskReady() {
		return errors.New("protocol error: sealed without a last round of the RW layer")
	}
	began := time.Now()
	if err := r.startFiller(); err != nil {
		return err
	}
	// StartTask ends with the hook's verdict, not with this migration's context
	go func() {
		pid, err := r.eng.StartTask(context.WithoutCancel(ctx), r.c)
		r.started <- startResult{pid, err}
	}()
	r.push("end the restore", r.endRestore)
	ev, err := r.awaitHeld(ctx)
	if err != nil {
		return err
	}
	r.log.Debug("held", "init", ev.Pid)
	r.step("hold", began)
	if r.c.Network.Unnamed { // Adopt takes the path away
		r.netns = fmt.Sprintf("/proc/%d/ns/net", ev.Pid)
	}
	if !hasEnded(ev.Pid) { // engines of tests have no processes
		r.init = ev.Pid
	}
	r.passPids(ev.Pid)
	if err := r.guardMemory(ev.Pid); err != nil {
		return err
	}
	if err := r.fillShared(ctx, ev.Pid); err != nil {
		return err
	}
	check, err := r.verifyMemory(ev.Pid)
	if err != nil {
		return err
	}
	if err := r.m.On(handover.EvHeld); err != nil {
		return err
	}
	msg := proto.ReadyMsg{RestoreMS: report.MS(time.Since(began))}
	if check != nil {
		msg.Verified = check.Compared
	}
	return proto.Send(ctx, r.sess, proto.Ready, msg)
}

// passPids has the container go on with its pids where it was, while the hand-over goes on.
func (r *receiver) passPids(init int) {
	r.pids = make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), pidsLimit)
		defer cancel()
		r.pids <- criu.PassPids(ctx, init, r.stage.Images())
	}()
}

// pidsLimit bounds what takes some milliseconds.
const pidsLimit = 5 * time.Second

// awaitHeld waits for the hook, or for a restore that fails before it.
func (r *receiver) awaitHeld(ctx context.Context) (criu.Event, error) {
	for {
		select {
		case ev, ok := <-r.hook.Events():
			if !ok {
				return ev, criu.ErrHookClosed
			}
			switch ev.Action {
			case criu.ActionPostRestore:
				r.attachFilled()
				return ev, nil
			case criu.ActionSetupNamespaces:
				if err := r.lockManaged(ev.Pid); err != nil {
					return ev, err
				}
				if err := r.hook.Release(true); err != nil {
					return ev, err
				}
			}
		case res := <-r.started:
			r.started <- res // for endRestore
			return criu.Event{}, r.restoreError(res.err)
		case <-ctx.Done():
			return criu.Event{}, fmt.Errorf("restore the container: %w", context.Cause(ctx))
		}
	}
}

// restoreError explains a failed restore by CRIU's log.
func (r *receiver) restoreError(err error) error {
	if err == nil {
		err = errRanEarly
	}
	const remedy = "see the log, and whether `criu check` is content with the destination"
	f := fail.New(fail.Restore, "restore the container", err).With("destination, phase restore", "")
	defer func() { f.With("", remedy) }()
	if c, cerr := criu.FirstCause(r.restoreLog()); cerr == nil {
		f.Why, f.Remedy = c.String(), c.Remedy
	} else {
		f.Why = criu.Unexplained(f.Why)
	}
	return f
}

// errRanEarly is a restore that was not held: the container runs here without GO.
var errRanEarly = errors.New("the runtime did not call the hook that holds the restore: does it read the annotation org.criu.config?")

func (r *receiver) restoreLog() string { return filepath.Join(r.stage.Work(), "restore.log") }

// endRestore makes a restore that is held, or on its way there, fail, and returns when the runtime has given it up. One that
// hangs is killed.
func (r *receiver) endRestore(ctx context.Context) error {
	if err := r.hook.Release(false); err != nil {
		r.log.Debug("end the restore", "err", err)
	}
	for _, last := range []bool{false, true} {
		select {
		case <-r.started: // should it have come to run, the task's own undo kills it
			return nil
		case <-time.After(abortLimit):
		case <-ctx.Done():
			return ctx.Err()
		}
		if last {
			break
		}
		r.log.Warn("the restore does not end: killing it")
		if err := criu.KillUsers(r.stage.Dir()); err != nil {
			return fmt.Errorf("kill the restore: %w", err)
		}
	}
	return errors.New("the restore does not end")
}

// resume waits for GO, records it, opens the network and lets the container run.
func (r *receiver) resume(ctx context.Context) (pid int, err error) {
	if err := r.awaitGo(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	// first the state, so that a record that was made half is taken back as one after GO
	if err := r.m.On(handover.EvGo); err != nil {
		return 0, err
	}
	if err := r.opt.Outcomes.Begin(r.offer.ID); err != nil {
		return 0, err
	}
	r.step("journal", began)
	// from here on the peer's silence changes nothing
	ctx = context.WithoutCancel(ctx)
	// before anything comes in: a pager that has died meanwhile leaves nothing to open the network for
	if err := r.commitMemory(); err != nil {
		return 0, err
	}
	if err := <-r.pids; err != nil {
		r.log.Warn("pids of new processes begin anew", "err", err)
	}
	// nor does a process that was killed: whoever sent something to it would be told that there is no such connection
	if r.init != 0 && hasEnded(r.init) {
		return 0, r.restoreError(errors.New("the restored process was killed while it was held"))
	}
	if err := r.openNetwork(); err != nil {
		return 0, err
	}
	if err := r.hook.Release(true); err != nil {
		return 0, err
	}
	ran := r.resumedAt()
	var res startResult
	select {
	case res = <-r.started:
	case <-time.After(engineLimit):
		return 0, r.restoreError(fmt.Errorf("the restore did not end within %v after GO", engineLimit))
	}
	if res.err != nil {
		r.started <- res
		return 0, r.restoreError(res.err)
	}
	at := <-ran
	r.resumed = at
	r.fillMemory()
	if err := r.m.On(r.runs()); err != nil {
		return 0, err
	}
	r.mu.Lock()
	r.undos = nil // what is registered stays
	r.steps["resume"] = report.MS(at.Sub(began))
	msg := proto.CommittedMsg{Pid: res.pid, SinceGoMS: report.MS(at.Sub(began)), StepsMS: r.steps}
	r.mu.Unlock()
	msg.Addresses = r.newAddresses()
	msg.LagMS = report.MS(time.Since(at))
	if err := r.opt.Outcomes.Commit(r.offer.ID, msg, r.fetchState()); err != nil {
		r.log.Error("record the outcome", "err", err) // it runs; the record says pending, which the source may ask about
	}
	if err := proto.Send(ctx, r.sess, proto.Committed, msg); err != nil {
		r.log.Warn("tell the source that the container runs here", "err", err)
	}
	return res.pid, nil
}

// hasEnded says whether a process is no more, or a zombie (proc_pid_status(5)).
func hasEnded(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || bytes.Contains(status, []byte("\nState:\tZ"))
}

// resumedAt delivers the time at which CRIU said that the tasks run, or, if it never does, that at which it was given up.
func (r *receiver) resumedAt() <-chan time.Time {
	ran := make(chan time.Time, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), resumeLimit)
		defer cancel()
		_, _ = r.hook.Wait(ctx, criu.ActionPostResume)
		ran <- time.Now()
	}()
	return ran
}

// resumeLimit bounds the wait for CRIU's word that the tasks run, once the runtime has said that they do.
const resumeLimit = 5 * time.Second

// awaitGo waits no longer than the source would keep its container frozen.
func (r *receiver) awaitGo(ctx context.Context) error {
	limit := r.offer.HoldLimit
	if limit <= 0 || limit > holdMax {
		limit = holdDefault
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var watch sync.WaitGroup
	watch.Go(func() { r.watchHeld(ctx, stop) })
	err := r.inbox.Recv(ctx, proto.Go, nil)
	cancel()
	watch.Wait()
	select {
	case res := <-r.started: // it may have failed in the very moment of GO
		r.started <- res
		return r.restoreError(res.err)
	default:
		return err
	}
}

// watchHeld ends the wait for GO when there is nothing to resume any more, as when the engine has died, which was to hear of it.
func (r *receiver) watchHeld(ctx context.Context, stop context.CancelCauseFunc) {
	select {
	case res := <-r.started:
		r.started <- res
		stop(r.restoreError(res.err))
	case <-ctx.Done():
	}
}

// holdMax bounds what a source may ask for.
const holdMax = time.Hour

// openNetwork lets packets through and tells switches and peers where the container is now.
func (r *receiver) openNetwork() error {
	if r.lock == nil {
		return nil
	}
	if err := r.lock.Open(); err != nil {
		return fmt.Errorf("open the container's network: %w", err)
	}
	r.packets.open()
	return nil
}

// runs is what it means for the hand-over that the container runs.
func (r *receiver) runs() handover.Event {
	if r.stays() {
		return handover.EvRuns
	}
	return handover.EvResumed
}

// fetchState is what the record says of memory at the source when the container runs.
func (r *receiver) fetchState() string {
	if r.stays() {
		return proto.FetchGoesOn
	}
	return ""
}

// finish brings all memory in place, waits for the source's release and tidies up. The container is this host's whatever happens now.
// An error says that it was lost.
func (r *receiver) finish(ctx context.Context) error {
	whole := context.WithoutCancel(ctx)
	adopted := false
	r.tidy(whole, []undo{
		{"remove the network lock", func(context.Context) error {
			if r.lock == nil {
				return nil
			}
			return r.lock.Remove()
		}},
		{"announce again", func(ctx context.Context) error {
			if !r.c.Network.Own() {
				return nil
			}
			// the later frames outlive this migration
			return network.AnnounceRepeat(context.WithoutCancel(ctx), r.netns)
		}},
		{"restore the record", func(ctx context.Context) error {
			err := r.adopt(ctx)
			adopted = err == nil
			return err
		}},
	})
	done := r.fill(whole)
	r.tidy(whole, []undo{
		{"let go of the volumes", func(context.Context) error { return r.keepVolumes() }},
		{"close the page store", func(context.Context) error {
			if r.memory == nil {
				return nil
			}
			return r.memory.store.Close()
		}},
		{"close the image set", func(context.Context) error { r.streams.close(); r.hook.Close(); return nil }},
		{"free the stage", func(context.Context) error { return r.stage.Remove() }},
		{"remove CRIU's configuration", func(context.Context) error { return removeFile(r.confAt) }},
		{"end the lease", r.endLease},
		{"remove the note", func(context.Context) error {
			if !adopted {
				return r.note.leave() // for the next agent, which tries again
			}
			return r.note.forget()
		}},
	})
	ctx, cancel := context.WithTimeout(whole, undoLimit)
	defer cancel()
	sess, err := r.awaitReleased(ctx)
	if r.packets != nil {
		r.packets.finish(ctx)
	}
	if err != nil {
		r.log.Warn("wait for the source's release", "err", err)
	} else if err := proto.Send(ctx, sess, proto.Done, done); err != nil {
		r.log.Warn("tell the source that all is done", "err", err)
	}
	if err := sess.Close(); err != nil {
		r.log.Debug("close session", "err", err)
	}
	if err := r.eng.Close(); err != nil {
		r.log.Debug("close engine", "err", err)
	}
	if done.Lost == "" {
		return nil
	}
	return &fail.Fault{Code: fail.Lost, What: fmt.Sprintf("container %q was taken in, and lost", r.c.ID), Where: "destination, phase finish", Why: done.Lost,
		Remedy: "start it anew; its files are here", Log: r.fillRecord(), State: "it was ended: part of its memory was never filled in"}
}

// adopt asks again while the engine does not do it: it may just be starting again.
func (r *receiver) adopt(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, adoptLimit)
	defer cancel()
	for {
		err := r.eng.Adopt(ctx, r.c)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(adoptEvery):
		case <-ctx.Done():
			return err
		}
	}
}

const (
	adoptLimit = 45 * time.Second
	adoptEvery = time.Second
)

// awaitReleased waits for the source's release, on the session that the migration has by now.
func (r *receiver) awaitReleased(ctx context.Context) (*transfer.Session, error) {
	f := r.fetching
	if f == nil {
		return r.sess, r.inbox.Recv(ctx, proto.Released, nil)
	}
	if f.released == nil {
		return f.sess, errors.New("the session ended before")
	}
	select {
	case res := <-f.released:
		return f.sess, res.err
	case <-ctx.Done():
		return f.sess, context.Cause(ctx)
	}
}

// tidy takes steps of the end, none of which keeps the next one from being taken.
func (r *receiver) tidy(ctx context.Context, steps []undo) {
	ctx, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	for _, t := range steps {
		if err := t.run(ctx); err != nil {
			r.log.Warn(t.what, "err", err)
		}
	}
}

// fill waits until the container's memory is in place, however long that takes, and says how it went.
func (r *receiver) fill(ctx context.Context) proto.DoneMsg {
	var msg proto.DoneMsg
	ferr := r.fetch(ctx)
	f, err := r.awaitFill(ctx, r.resumed)
	if ferr != nil {
		err = ferr
	}
	if err != nil {
		msg.Lost = err.Error()
		r.log.Error("the container's memory could not be filled: it was ended", "err", err, "record", r.fillRecord())
		return msg
	}
	msg.Fill = f
	if err := removeFile(r.fillRecord()); err != nil { // it explains nothing; only a pager without an agent leaves one
		r.log.Warn("remove the record of the fill", "err", err)
	}
	return msg
}
