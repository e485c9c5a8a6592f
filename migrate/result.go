package migrate

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/layers"
	"migrate/transfer"
)

// finishReport completes the report once everything is over.
func (s *sender) finishReport(err error) {
	s.clock.Enter("")
	r := s.rep
	r.Phases = s.clock.Phases()
	s.reportStorage()
	r.TotalMS = report.MS(time.Since(r.Started))
	var f *fail.Fault
	if errors.As(err, &f) {
		r.Error = f
	}
	if s.sess != nil {
		r.WireBytes = s.sent()
	}
	if s.doneAt.IsZero() {
		return
	}
	r.DowntimeMS = report.MS(s.doneAt.Sub(s.frozenAt))
	last := s.frozenAt
	for _, p := range []struct {
		name string
		end  time.Time
	}{{"dump", s.heldAt}, {"ship", s.sealedAt}, {"restore", s.readyAt}, {"resume", s.doneAt}} {
		r.Downtime = append(r.Downtime, report.Part{Name: p.name, MS: report.MS(p.end.Sub(last))})
		last = p.end
	}
}

// classify turns an error into the Fault that the user sees.
func (s *sender) classify(ctx context.Context, err error) *fail.Fault {
	var f *fail.Fault
	var ab *proto.AbortError
	if errors.As(err, &f) && (f.Code == fail.InDoubt || f.Code == fail.Unfinished || f.Code == fail.Lost) {
		return f
	}
	err = s.firstCause(ctx, err)
	if errors.As(err, &ab) {
		peers := *ab.Fault // shared with whoever else met it
		s.peerFault = &peers
		return s.peerFault
	}
	if errors.As(err, &f) {
		return f
	}
	where := "source, phase " + s.clock.Phase()
	what := "move container " + s.opt.Container
	if c, remedy := s.code(ctx, err); c != "" {
		return fail.New(c, what, err).With(where, remedy)
	}
	var df *criu.Failure
	if errors.As(err, &df) {
		g := fail.New(fail.Checkpoint, "checkpoint the container", err).With(where, df.Cause.Remedy)
		g.With("", "see the log, and whether `criu check` is content with the source")
		g.Log = df.Log
		return g
	}
	return fail.New(fail.Internal, what, err).With(where, "run it again with --verbose for more")
}

// code finds what kind of failure an error is, and what can be done about it.
func (s *sender) code(ctx context.Context, err error) (fail.Code, string) {
	var changed *layers.ChangedError
	switch {
	case errors.Is(err, errFrozenTooLong):
		return fail.Timeout, fmt.Sprintf("raise --timeout (now %v), or move the container when it has less memory or the link more room", s.opt.Timeout)
	case ctx.Err() != nil:
		return fail.Cancelled, "the migration was cancelled; start it again when you like"
	case errors.Is(err, criu.ErrLaunch):
		return fail.Timeout, "see whether `criu check` and the runtime answer at the source, and try again"
	case errors.Is(err, context.DeadlineExceeded):
		return fail.Timeout, "see whether the engine answers, and try again"
	case errors.Is(err, engine.ErrNotFound):
		return fail.Container, "list the containers of the engine and check --namespace and --address"
	case errors.Is(err, engine.ErrNotRunning):
		return fail.Container, "only running containers move; copy a stopped one with the engine's own tools"
	case errors.Is(err, engine.ErrPaused):
		return fail.Container, "resume it first"
	case errors.Is(err, engine.ErrExists):
		return fail.Container, "wait until the other migration is over"
	case errors.Is(err, engine.ErrUnsupported):
		return fail.Unsupported, ""
	case errors.Is(err, transfer.ErrVersion):
		return fail.Version, "install the same version of migrate on both hosts"
	case errors.Is(err, transfer.ErrNoPin):
		return fail.Auth, "give the destination's fingerprint with --fingerprint, a token of its `migrate enroll` with --token, or go over ssh://"
	case errors.Is(err, transfer.ErrPeerKey), errors.Is(err, transfer.ErrUnauthorized):
		return fail.Auth, "compare the fingerprints on both hosts, or enrol this host with a new token"
	case errors.Is(err, transfer.ErrBusy):
		return fail.Refused, "wait until one of the destination's migrations is over"
	case errors.Is(err, transfer.ErrRefused):
		return fail.Refused, "see the destination agent's log"
	case errors.Is(err, syscall.ENOSPC):
		return fail.Space, "free memory or disk at the source"
	case errors.As(err, &changed):
		return fail.Checkpoint, "something outside the container writes to files that move with it; stop that and try again"
	case transfer.IsLinkError(err):
		return fail.Connection, "check that the destination agent runs and the network between the hosts works"
	}
	return "", ""
}

// firstCause looks behind an error that only follows from another: calls that were cancelled because the peer gave up, the
// link broke or the container stood still for too long; and streams that fail just before the peer's ABORT is read.
func (s *sender) firstCause(user context.Context, err error) error {
	var ab *proto.AbortError
	follows := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
	if s.inbox == nil || errors.As(err, &ab) || user.Err() != nil || !(follows || transfer.IsLinkError(err)) {
		return err
	}
	if errors.Is(err, errFrozenTooLong) {
		return err
	}
	if !follows {
		select {
		case <-s.inbox.Closed():
		case <-time.After(peersWordLimit):
		}
	}
	if cause := s.inbox.Cause(); cause != nil {
		return cause
	}
	// the context itself has ended by now, whatever happened
	if s.frozenCtx != nil && errors.Is(context.Cause(s.frozenCtx), errFrozenTooLong) {
		return errFrozenTooLong
	}
	return err
}

// peersWordLimit is how long a broken stream waits for the word that explains it.
const peersWordLimit = 300 * time.Millisecond
