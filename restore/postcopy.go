package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/pager"
	"migrate/internal/postcopy"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/track"
	"migrate/transfer"
)

// fetching is memory that is still at the source while the container is restored and runs here.
type fetching struct {
	r       *receiver
	peer    string // the source's key; "" over a pipe, which has one owner
	fetcher *postcopy.Fetcher
	fatal   chan error             // why it cannot go on, whatever the link
	links   chan *transfer.Session // on which the source has come back
	over    chan struct{}          // closed when nobody takes from links any more

	// of the session under way, once the container runs
	sess     *transfer.Session
	inbox    *proto.Inbox
	released chan releasedResult
	breaks   int
}

type releasedResult struct {
	msg proto.ReleasedMsg
	err error
}

func (r *receiver) stays() bool { return proto.Stays(r.offer.Mode) }

// checkStays refuses what a source whose link breaks could not come back to.
func (r *receiver) checkStays() error {
	switch {
	case !r.stays():
		return nil
	case r.offer.Eager || r.offer.Verify:
		return fmt.Errorf("protocol error: mode %q with all memory in place before", r.offer.Mode)
	case r.opt.Reunions == nil:
		return &fail.Fault{Code: fail.Refused, What: fmt.Sprintf("take in a container in mode %q", r.offer.Mode), Where: "destination",
			Why:    "this agent serves one session, and the source could not come back should the link break",
			Remedy: "send to an agent that listens, or choose another mode"}
	}
	return nil
}

// beginFetching asks the source for what is waited for from now on: CRIU itself touches memory before the container runs. runs is what
// stayed there, as far as it is known here, and want how many pages that are as the source counts them.
func (r *receiver) beginFetching(ctx context.Context, runs []postcopy.Run, want int64) error {
	if !r.stays() {
		return nil
	}
	f := &fetching{r: r, peer: r.sess.Peer().Fingerprint, fatal: make(chan error, 1), links: make(chan *transfer.Session), over: make(chan struct{}),
		sess: r.sess, inbox: r.inbox}
	var err error
	if f.fetcher, err = postcopy.NewFetcher(runs, f.place); err != nil {
		return err
	}
	if got := f.fetcher.Pages(); got != want {
		return fmt.Errorf("the source says that %d pages stayed there, and %d are missing here", want, got)
	}
	if room := r.memory.store.Room(); room < want {
		return &fail.Fault{Code: fail.Space, What: "take in memory that stayed at the source", Where: "destination",
			Why: fmt.Sprintf("there are %d pages and room for %d", want, room), Remedy: "free memory at the destination"}
	}
	go func() {
		for q := range r.memory.pager.Requests() {
			f.fetcher.Want(int32(q.VPID), q.Addr/track.PageSize)
		}
	}()
	r.opt.Reunions.add(r.offer.ID, f)
	r.push("stop waiting for the source", func(context.Context) error { f.end(); return nil })
	r.streams.update(func() { r.fetching = f })
	r.bg.Go(func() { f.talk(ctx, r.sess) })
	return nil
}

// end is called once.
func (f *fetching) end() {
	f.r.opt.Reunions.remove(f.r.offer.ID)
	close(f.over)
}

// place puts pages that came where the pager finds them.
func (f *fetching) place(run postcopy.Run, content []byte) error {
	slot := pager.ZeroSlot
	if content != nil {
		var err error
		if slot, err = f.r.memory.store.Append(content); err != nil {
			return err
		}
	}
	return f.r.memory.pager.Arrived(pager.Arrival{VPID: int(run.VPID), Addr: run.Page * track.PageSize, Pages: run.Pages, Slot: slot})
}

// talk says on one session what is wanted, until all has come or the session ends.
func (f *fetching) talk(ctx context.Context, sess *transfer.Session) {
	w, err := sess.OpenStream(ctx, proto.StreamRequests, []byte("{}"), transfer.StreamOptions{Lane: 1, Codec: transfer.None})
	if err == nil {
		if err = f.fetcher.Talk(ctx, w); err == nil {
			err = w.Close()
		} else {
			_ = w.Reset(resetFailed) // on a session that is gone it has no effect
		}
	}
	if err != nil {
		f.r.log.Debug("ask for memory", "err", err) // the session's end is noticed elsewhere
	}
}

// resetFailed is the code with which a stream is given up.
const resetFailed = 1

// takeRemote takes in a stream of the migration's own session. It may come before the pager has its plan.
func (s *streams) takeRemote(ctx context.Context, st *transfer.StreamReader) error {
	if !s.r.stays() {
		return errors.New("protocol error: memory that was not to stay at the source")
	}
	if err := s.wait(ctx, "SEALED", func() bool { return s.r.fetching != nil }); err != nil {
		return err
	}
	return s.r.fetching.take(st)
}

// take takes in a stream of pages.
func (f *fetching) take(st *transfer.StreamReader) error {
	err := f.fetcher.Take(st)
	if errors.Is(err, postcopy.ErrPlace) || errors.Is(err, postcopy.ErrFormat) {
		select {
		case f.fatal <- err:
		default: // the first one counts
		}
	}
	return err
}

// accept takes in the streams of a session on which the source has come back.
func (f *fetching) accept(ctx context.Context, sess *transfer.Session) {
	for {
		st, err := sess.Accept(ctx)
		if err != nil {
			return
		}
		if st.Kind() != proto.StreamRemote {
			sess.Abort(fmt.Errorf("protocol error: stream of kind %d on a session that goes on", st.Kind()))
			return
		}
		f.r.bg.Go(func() {
			if err := f.take(st); err != nil {
				f.r.log.Debug("receive memory", "err", err)
				st.Discard()
			}
		})
	}
}

// fetch brings the memory over that is still at the source, over as many sessions as it takes, and tells the source when it needs
// nothing any more. The error says why the container is lost; it is being ended then.
func (r *receiver) fetch(ctx context.Context) error {
	f := r.fetching
	if f == nil {
		return nil
	}
	f.awaitReleased(ctx)
	err := f.all(ctx)
	f.end()
	state, event := proto.FetchOver, handover.EvAllThere
	if err != nil {
		state, event = proto.FetchLost, handover.EvLost
		if lerr := r.memory.pager.Lose(err.Error()); lerr != nil && !errors.Is(err, pager.ErrLost) {
			r.log.Error("end the container", "err", lerr)
		}
	}
	if oerr := r.opt.Outcomes.Fetched(r.offer.ID, state); oerr != nil {
		r.log.Error("record the outcome", "err", oerr) // the pager's record says the same
	}
	if merr := r.m.On(event); merr != nil {
		return merr
	}
	msg := proto.FetchedMsg{Fetch: f.report()}
	if err != nil {
		msg.Lost = err.Error()
	}
	if serr := proto.Send(ctx, f.sess, proto.Fetched, msg); serr != nil {
		r.log.Info("tell the source that nothing more is needed", "err", serr) // it comes back and asks
	}
	return err
}

func (f *fetching) report() *report.Fetch {
	st := f.fetcher.Stats()
	return &report.Fetch{
		DegradedMS: report.MS(time.Since(f.r.resumed)), Pages: st.Pages, Asked: st.Asked, Twice: st.Twice,
		MedianMS: report.MS(st.Median), P99MS: report.MS(st.P99), Reconnects: f.breaks,
	}
}

// awaitReleased listens for the source's last word on the session under way.
func (f *fetching) awaitReleased(ctx context.Context) {
	ch := make(chan releasedResult, 1)
	f.released = ch
	go func(in *proto.Inbox) {
		var res releasedResult
		res.err = in.Recv(ctx, proto.Released, &res.msg)
		ch <- res
	}(f.inbox)
}

// Bounds of how long a link may stay broken.
const (
	recoverDefault = 10 * time.Minute
	recoverMost    = 24 * time.Hour
)

func (f *fetching) limit() time.Duration {
	if l := f.r.offer.Recover; l > 0 && l <= recoverMost {
		return l
	}
	return recoverDefault
}

// all returns when all memory is here or not needed any more, or with the reason why it never will be.
func (f *fetching) all(ctx context.Context) error {
	filled := make(chan error, 1)
	go func() {
		_, err := f.r.memory.pager.Filled(ctx)
		filled <- err
	}()
	var broken <-chan time.Time // nil as long as there is a link
	var cause error
	timer := time.NewTimer(f.limit())
	defer timer.Stop()
	lost := f.sess.Done()
	for {
		select {
		case <-f.fetcher.Done():
			return nil
		case err := <-filled: // without an error: all that would need memory has ended
			return err
		case err := <-f.fatal:
			return err
		case res := <-f.released:
			if res.err == nil {
				return fmt.Errorf("the source has given up: %s", res.msg.Lost)
			}
			f.released = nil
		case <-lost:
			cause, lost = f.sess.Err(), nil
			f.r.log.Warn("paused: the link is lost, waiting for the source to come back; the container waits for memory that is there",
				"err", cause, "pages", f.fetcher.Left(), "limit", f.limit())
			timer.Reset(f.limit())
			broken = timer.C
		case sess := <-f.links:
			if err := f.goOn(ctx, sess); err != nil {
				f.r.log.Info("go on with the migration", "err", err)
				continue
			}
			lost, broken = sess.Done(), nil
			f.r.log.Info("the source is back, going on", "pages", f.fetcher.Left())
		case <-broken:
			return fmt.Errorf("the link stayed broken for %v (%w) with %d pages still at the source", f.limit(), cause, f.fetcher.Left())
		}
	}
}

// goOn makes a session on which the source has come back the migration's.
func (f *fetching) goOn(ctx context.Context, sess *transfer.Session) error {
	sctx, cancel := context.WithTimeout(ctx, resumedLimit)
	defer cancel()
	if err := proto.Send(sctx, sess, proto.Resumed, proto.ResumedMsg{State: proto.FetchGoesOn}); err != nil {
		sess.Abort(err)
		return err
	}
	f.sess.Abort(errReplaced) // the source has left it, if it has not ended by itself
	f.breaks++
	f.sess = sess
	var lctx context.Context
	f.inbox, lctx, _ = proto.NewInbox(ctx, sess) // its context ends with the session
	f.awaitReleased(ctx)
	f.r.bg.Go(func() { f.accept(lctx, sess) })
	f.r.bg.Go(func() { f.talk(lctx, sess) })
	return nil
}

const resumedLimit = 10 * time.Second

var errReplaced = errors.New("the source has come back on another session")
