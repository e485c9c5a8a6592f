package restore

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"time"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/layers"
	"migrate/transfer"
)

// firstCause looks behind an error that only follows from the peer's end: what was cancelled because of it, and streams
// that break, or are reset, just before the peer's ABORT is read.
func (r *receiver) firstCause(err error) error {
	var ab *proto.AbortError
	follows := errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, transfer.ErrReset) ||
		transfer.IsLinkError(err)
	if !follows || errors.As(err, &ab) {
		return err
	}
	select {
	case <-r.inbox.Closed():
	case <-time.After(peersWordLimit):
	}
	if cause := r.inbox.Cause(); cause != nil {
		return cause
	}
	return err
}

// peersWordLimit is how long a broken stream waits for the word that explains it.
const peersWordLimit = 300 * time.Millisecond

// classify turns an error into the Fault that goes to the source and into this side's log.
func (r *receiver) classify(err error) *fail.Fault {
	var f *fail.Fault
	var ab *proto.AbortError
	if errors.As(err, &f) && !errors.As(err, &ab) {
		return f.With("destination, phase "+r.clock.Phase(), "")
	}
	code, remedy := fail.Restore, "see the destination agent's log"
	if r.clock.Phase() == report.Offer {
		code = fail.Refused
	}
	var lim *layers.LimitError
	switch {
	case errors.As(err, &ab):
		f := *ab.Fault // the peer's own is shared with whoever else met it
		return &f
	case errors.Is(err, syscall.ENOSPC), strings.Contains(err.Error(), syscall.ENOSPC.Error()): // gRPC keeps the text only
		code, remedy = fail.Space, "free disk or memory at the destination"
	case errors.Is(err, engine.ErrExists):
		code, remedy = fail.Refused, "choose another name with --name, or remove what is there"
	case errors.Is(err, engine.ErrUnsupported), errors.Is(err, engine.ErrNotFound):
		code, remedy = fail.Refused, engine.RemedyOf(err)
	case errors.As(err, &lim):
		code, remedy = fail.Refused, "the destination limits what it takes in; see migrate recv --help"
	case errors.Is(err, context.DeadlineExceeded):
		code = fail.Timeout
	case errors.Is(err, context.Canceled):
		code, remedy = fail.Refused, "the destination agent was stopped; start it again"
	case transfer.IsLinkError(err):
		code = fail.Connection
	}
	return fail.New(code, "take in the container", err).With("destination, phase "+r.clock.Phase(), remedy)
}
