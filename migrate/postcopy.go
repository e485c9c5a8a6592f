package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"migrate/internal/criu/pagemap"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/postcopy"
	"migrate/internal/precopy"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/track"
	"migrate/transfer"
)

// serving is memory that stays in the held processes until the destination has it.
type serving struct {
	server *postcopy.Server
	cancel context.CancelCauseFunc
	ended  chan error // how serving ended on the session under way; it is delivered once
	rate   rate
	breaks int
	before int64 // bytes that had been sent when the container began to run there
}

// stays says whether memory stays here until the container runs at the destination.
func (s *sender) stays() bool { return proto.Stays(s.offer.Mode) }

// warn says what the mode puts at risk.
func (s *sender) warn() {
	if !s.stays() {
		return
	}
	s.rep.Risk = fmt.Sprintf("mode %s: once the container runs at the destination part of its memory is still here until all has been sent; "+
		"if either host fails meanwhile, or the link stays broken for %v, the container is lost", s.offer.Mode, s.opt.Memory.Recover)
	s.clock.Note(s.rep.Risk)
}

// leaveMemory finds out what of the memory that the dump has left in place the destination does not have. The dump is held.
func (s *sender) leaveMemory(ctx context.Context) error {
	spaces, err := s.dumped(pagemap.Entry.InPlace)
	if err != nil {
		return err
	}
	if s.copies() {
		var r report.Round
		if spaces, r, err = s.copier.Leave(ctx, spaces); err != nil {
			return err
		}
		s.rep.Rounds = append(s.rep.Rounds, r)
	}
	if err := s.restOfShared(ctx); err != nil {
		return err
	}
	server, err := newServer(spaces)
	if err != nil {
		return err
	}
	s.serving = &serving{server: server, cancel: func(error) {}}
	return nil
}

// newServer serves the memory of held processes.
func newServer(spaces []precopy.Space) (*postcopy.Server, error) {
	var runs []postcopy.Run
	pids := map[int32]int{}
	for _, sp := range spaces {
		for _, r := range sp.Ranges {
			if sp.Pid == 0 {
				return nil, fmt.Errorf("process %d of the container was dumped and is not among its processes", sp.VPid)
			}
			runs = append(runs, postcopy.Run{VPID: int32(sp.VPid), Page: r.Start / track.PageSize, Pages: uint32(r.Len() / track.PageSize)})
		}
		pids[int32(sp.VPid)] = sp.Pid
	}
	return postcopy.NewServer(runs, func(vpid int32, page uint64, p []byte) error {
		at := track.Range{Start: page * track.PageSize, End: page*track.PageSize + uint64(len(p))}
		gone, err := track.Reader{Pid: pids[vpid]}.Read([]track.Range{at}, p)
		if err == nil && len(gone) > 0 {
			err = fmt.Errorf("page %#x of process %d cannot be read", gone[0].Start, pids[vpid])
		}
		return err
	})
}

// sent is how many bytes have gone over all sessions.
func (s *sender) sent() int64 { return s.earlier + int64(s.sess.Stats().WireSent) }

// left is how many pages stay here.
func (s *sender) left() int64 {
	if s.serving == nil {
		return 0
	}
	return s.serving.server.Pages()
}

// beginServing answers what the destination asks for from the moment in which it may: CRIU itself touches memory before the container
// runs. Nothing is sent unasked before the container is the destination's.
func (s *sender) beginServing(ctx context.Context) {
	if s.serving == nil {
		return
	}
	ctx, s.serving.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	s.serving.ended = make(chan error, 1)
	go func(sess *transfer.Session, ended chan<- error) { ended <- s.serving.over(ctx, sess, s.opt.Codec) }(s.sess, s.serving.ended)
}

// stopServing returns when nobody reads the processes' memory any more.
func (s *sender) stopServing() {
	if s.serving == nil || s.serving.ended == nil {
		return
	}
	s.serving.cancel(context.Canceled)
	<-s.serving.ended
	s.serving.ended = nil
}

// over serves on one session.
func (v *serving) over(ctx context.Context, sess *transfer.Session, codec transfer.CodecChoice) error {
	v.rate.start(sess)
	var open []*transfer.StreamWriter
	stream := func(lane int) (*transfer.StreamWriter, error) {
		w, err := sess.OpenStream(ctx, proto.StreamRemote, []byte("{}"), transfer.StreamOptions{Lane: lane, Codec: codec, Rate: v.rate.now})
		if err == nil {
			open = append(open, w)
		}
		return w, err
	}
	l := postcopy.Link{Requests: func(ctx context.Context) (io.Reader, error) { return acceptRequests(ctx, sess) }}
	// what is asked for has a lane of its own if there are two
	urgent, err := stream(1)
	for lane := min(2, sess.Lanes()); lane <= sess.Lanes() && err == nil; lane++ {
		var w *transfer.StreamWriter
		if w, err = stream(lane); err == nil {
			l.Bulk = append(l.Bulk, w)
		}
	}
	if err == nil {
		l.Urgent = urgent
		err = v.server.Serve(ctx, l)
	}
	for _, w := range open {
		if err != nil || w.Close() != nil {
			_ = w.Reset(resetFailed) // on a session that is gone it has no effect
		}
	}
	return err
}

// acceptRequests waits for the one stream that a destination opens.
func acceptRequests(ctx context.Context, sess *transfer.Session) (io.Reader, error) {
	st, err := sess.Accept(ctx)
	if err != nil {
		return nil, err
	}
	if st.Kind() != proto.StreamRequests {
		st.Discard()
		return nil, fmt.Errorf("%w: stream of kind %d in place of requests", postcopy.ErrFormat, st.Kind())
	}
	return st, nil
}

// serve sends what memory is still here until the destination has it. The error, if any, is a *fail.Fault: the container is lost then.
func (s *sender) serve(ctx context.Context) error {
	if !s.stays() {
		return nil
	}
	s.clock.Enter(report.Serve)
	s.serving.before = s.sent()
	var packets sync.WaitGroup
	packets.Go(func() { s.packets.finish(s.doneAt) })
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if s.user.Err() == nil { // who gave up before, gave up something else
		defer context.AfterFunc(s.user, func() { cancel(errGivenUp) })()
	}
	stop := s.watchServing(ctx)
	err := s.serveAll(ctx)
	s.stopServing()
	stop()
	packets.Wait()
	if err == nil {
		return s.m.On(handover.EvAllThere)
	}
	s.rep.Result = report.Lost
	if merr := s.m.On(handover.EvLost); merr != nil {
		return errors.Join(err, merr)
	}
	return s.lost(err)
}

// errGivenUp is the user's end of a container whose memory is still here.
var errGivenUp = errors.New("the migration was ended by hand while memory was still at the source")

// watchServing shows how much has been sent.
func (s *sender) watchServing(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for all := s.serving.server.Pages() * track.PageSize; ; {
			s.clock.Progress(all-s.serving.server.Left()*track.PageSize, all)
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

const progressEvery = 200 * time.Millisecond

// serveAll serves over as many sessions as it takes.
func (s *sender) serveAll(ctx context.Context) error {
	s.serving.server.Push()
	for {
		err := s.serveSession(ctx)
		if err == nil || !s.mayReconnect(ctx, err) {
			return err
		}
		s.clock.Note(fmt.Sprintf("paused: the link is lost (%v), reconnecting; the container waits for memory that is still here", err))
		s.serving.breaks++
		over, err := s.reconnect(ctx, err)
		if over || err != nil {
			return err
		}
		s.clock.Note("the link is back, going on")
	}
}

// mayReconnect says whether an error is that of a link. It stops what is left of it.
func (s *sender) mayReconnect(ctx context.Context, err error) bool {
	s.stopServing()
	var lost *lostThere
	return ctx.Err() == nil && !errors.As(err, &lost) && !errors.Is(err, postcopy.ErrMemory) && !errors.Is(err, postcopy.ErrFormat)
}

// lostThere is the destination's word that the container was ended.
type lostThere struct{ why string }

func (e *lostThere) Error() string { return e.why }

// serveSession waits until the destination has everything, or the session is of no use any more.
func (s *sender) serveSession(ctx context.Context) error {
	rctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ended := s.serving.ended
	if ended == nil {
		return errors.New("the session ended before")
	}
	relay := make(chan error, 1) // for who waits for the end later
	s.serving.ended = relay
	go func() {
		err := <-ended
		if err != nil {
			cancel(err)
		}
		relay <- err
	}()
	var msg proto.FetchedMsg
	if err := s.inbox.Recv(rctx, proto.Fetched, &msg); err != nil {
		if cause := context.Cause(rctx); cause != nil {
			return cause
		}
		return err
	}
	if msg.Lost != "" {
		return &lostThere{msg.Lost}
	}
	s.fetched(msg.Fetch)
	return nil
}

// fetched completes what the destination tells of the fetch; nil if it could not.
func (s *sender) fetched(f *report.Fetch) {
	if f == nil {
		f = &report.Fetch{DegradedMS: report.MS(time.Since(s.doneAt)), Pages: s.left(), Asked: s.serving.server.Asked()}
	}
	f.Reconnects, f.Wire = s.serving.breaks, s.sent()-s.serving.before
	s.rep.Fetch = f
}

// How long, and how often, a broken link is tried to be made anew.
const (
	dialPause     = 250 * time.Millisecond // doubles each time
	dialPauseMost = 3 * time.Second
	dialOnce      = 10 * time.Second
)

// reconnect makes a new session and goes on with the migration there. over says that the destination needs nothing any more.
func (s *sender) reconnect(ctx context.Context, cause error) (over bool, err error) {
	s.sess.Abort(cause) // the peer need not wait to find out
	limit := time.Now().Add(s.opt.Memory.Recover)
	for wait := dialPause; ; wait = min(2*wait, dialPauseMost) {
		state, err := s.comeBack(ctx)
		switch state.State {
		case proto.FetchGoesOn:
			s.beginServing(ctx)
			return false, nil
		case proto.FetchOver:
			s.fetched(nil)
			return true, nil
		case proto.FetchLost:
			return false, &lostThere{state.Why}
		}
		if err == nil {
			err = errors.New("the destination is not ready to go on")
		}
		s.log.Debug("reconnect", "err", err)
		if time.Now().Add(wait).After(limit) {
			return false, fmt.Errorf("the link stayed broken for %v: %w", s.opt.Memory.Recover, err)
		}
		if err := pause(ctx, wait); err != nil {
			return false, err
		}
	}
}

// comeBack asks the destination, on a new session, to go on. If it does, that session is the migration's from then on.
func (s *sender) comeBack(ctx context.Context) (state proto.ResumedMsg, err error) {
	dctx, cancel := context.WithTimeout(ctx, dialOnce)
	defer cancel()
	sess, err := s.opt.Dial(dctx)
	if err != nil {
		return state, err
	}
	in, inCtx, stop := proto.NewInbox(ctx, sess)
	give := context.AfterFunc(dctx, func() { sess.Abort(context.Cause(dctx)) })
	if err = proto.Send(inCtx, sess, proto.Resume, proto.ResumeMsg{ID: s.offer.ID, Epoch: s.offer.Epoch}); err == nil {
		err = in.Recv(inCtx, proto.Resumed, &state)
	}
	if !give() && err == nil {
		err = context.Cause(dctx)
	}
	if err != nil || state.State != proto.FetchGoesOn {
		defer stop(nil)
		if err != nil {
			sess.Abort(err)
			return proto.ResumedMsg{}, err
		}
		if cerr := sess.Close(); cerr != nil {
			s.log.Debug("close session", "err", cerr)
		}
		return state, nil
	}
	s.cancel(nil)
	s.earlier += int64(s.sess.Stats().WireSent)
	s.sess, s.inbox, s.cancel = sess, in, stop
	return state, nil
}

// lost is the fault of a container that is no more.
func (s *sender) lost(err error) error {
	f := &fail.Fault{Code: fail.Lost, What: "the container moved and was lost", Where: "source, phase " + report.Serve, Why: err.Error(), Err: err,
		Remedy: fmt.Sprintf("start container %q anew at the destination, where its files are up to date, or here", s.ready.ID),
		State: fmt.Sprintf("%d of %d MiB of memory had not come when it was given up; the destination ends container %q, or has ended it; here it is kept stopped, with its files as of the move",
			s.serving.server.Left()*track.PageSize>>20, s.left()*track.PageSize>>20, s.ready.ID)}
	var there *lostThere
	if errors.As(err, &there) {
		f.Where = "destination, phase " + report.Serve
	}
	return f
}

// whyLost is what the destination is told; "" if nothing was lost.
func whyLost(err error) string {
	var f *fail.Fault
	switch {
	case err == nil:
		return ""
	case errors.As(err, &f):
		return f.Why
	}
	return err.Error()
}

// rate measures what goes over a session, since streams of pages that are sent one by one do not tell.
type rate struct {
	mu    sync.Mutex
	sess  *transfer.Session
	bytes uint64
	at    time.Time
	last  float64
}

const rateEvery = 250 * time.Millisecond

func (r *rate) start(sess *transfer.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sess, r.bytes, r.at, r.last = sess, sess.Stats().WireSent, time.Now(), 0
}

// now is in bytes per second, 0 as long as too little was sent.
func (r *rate) now() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if apart := time.Since(r.at); apart >= rateEvery {
		bytes := r.sess.Stats().WireSent
		r.last = float64(bytes-r.bytes) / apart.Seconds()
		r.bytes, r.at = bytes, time.Now()
	}
	return r.last
}
