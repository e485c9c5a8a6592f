package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/layers"
	"migrate/transfer"
)

// What failed decides the exit status, however deep it is wrapped.
func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		code fail.Code
		exit int
	}{
		{engine.ErrNotFound, fail.Container, 3},
		{engine.ErrNotRunning, fail.Container, 3},
		{engine.ErrPaused, fail.Container, 3},
		{engine.ErrExists, fail.Container, 3},
		{engine.ErrUnsupported, fail.Unsupported, 3},
		{transfer.ErrVersion, fail.Version, 10},
		{&transfer.VersionError{}, fail.Version, 10},
		{transfer.ErrPeerKey, fail.Auth, 5},
		{transfer.ErrUnauthorized, fail.Auth, 5},
		{transfer.ErrNoPin, fail.Auth, 5},
		{transfer.ErrBusy, fail.Refused, 4},
		{transfer.ErrDead, fail.Connection, 6},
		{&transfer.LaneError{Op: "receive", Err: io.ErrUnexpectedEOF}, fail.Connection, 6},
		{syscall.ECONNREFUSED, fail.Connection, 6},
		{syscall.ENOSPC, fail.Space, 9},
		{&layers.ChangedError{Path: "x"}, fail.Checkpoint, 7},
		{&criu.Failure{Output: "status 1"}, fail.Checkpoint, 7},
		{errFrozenTooLong, fail.Timeout, 11},
		{context.DeadlineExceeded, fail.Timeout, 11},
		{&proto.AbortError{Fault: &fail.Fault{Code: fail.Refused, What: "x"}}, fail.Refused, 4},
		{&fail.Fault{Code: fail.Unfinished, What: "x", Err: io.EOF}, fail.Unfinished, 13},
		{&fail.Fault{Code: fail.InDoubt, What: "x", Err: io.EOF}, fail.InDoubt, 12},
		{errors.New("whatever"), fail.Internal, 1},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			s := newSender(fake.NewWorld().Host("a"), Options{Container: "web"})
			s.user = t.Context()
			f := s.classify(t.Context(), fmt.Errorf("outer: %w", fmt.Errorf("inner: %w", c.err)))
			if f.Code != c.code || fail.Exit(f) != c.exit {
				t.Errorf("code %s, exit %d; want %s, %d", f.Code, fail.Exit(f), c.code, c.exit)
			}
			if f.What == "" {
				t.Errorf("fault %+v", f)
			}
		})
	}
}

func TestClassifyCancelled(t *testing.T) {
	s := newSender(fake.NewWorld().Host("a"), Options{Container: "web"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.user = ctx
	if f := s.classify(ctx, fmt.Errorf("x: %w", context.Canceled)); f.Code != fail.Cancelled || fail.Exit(f) != 130 {
		t.Errorf("got %+v", f)
	}
}

// silent is a peer that says nothing.
type silent struct{}

func (silent) SendControl(context.Context, uint16, []byte) error { return nil }

func (silent) RecvControl(context.Context) (uint16, []byte, error) {
	select {} // what waits for it ends with the tests
}

// TestClassifyAfterFreeze checks that what ended a migration is not hidden by the context of the freeze, which has ended with it.
func TestClassifyAfterFreeze(t *testing.T) {
	for name, c := range map[string]struct {
		cause error // of the context's end
		code  fail.Code
		why   string
	}{
		"over":     {context.Canceled, fail.Connection, "outer: unexpected EOF"},
		"too long": {errFrozenTooLong, fail.Timeout, errFrozenTooLong.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSender(fake.NewWorld().Host("a"), Options{Container: "web"})
			s.user = t.Context()
			s.inbox, _, s.cancel = proto.NewInbox(t.Context(), silent{})
			var end context.CancelCauseFunc
			s.frozenCtx, end = context.WithCancelCause(t.Context())
			end(c.cause)
			if f := s.classify(t.Context(), fmt.Errorf("outer: %w", io.ErrUnexpectedEOF)); f.Code != c.code || f.Why != c.why {
				t.Errorf("code %s, why %q; want %s, %q", f.Code, f.Why, c.code, c.why)
			}
		})
	}
}

// Undos run last-in first-out, every one of them, with a context that nobody has ended.
func TestUnwind(t *testing.T) {
	s := newSender(fake.NewWorld().Host("a"), Options{Container: "web"})
	var order []int
	oops := errors.New("oops")
	for i := range 3 {
		s.push(fmt.Sprint("step ", i), func(ctx context.Context) error {
			order = append(order, i)
			if ctx.Err() != nil {
				t.Errorf("undo %d got a context that has ended", i)
			}
			if i == 1 {
				return oops
			}
			return nil
		})
	}
	if err := s.unwind(); !errors.Is(err, oops) {
		t.Errorf("got %v", err)
	}
	if fmt.Sprint(order) != "[2 1 0]" {
		t.Errorf("order %v", order)
	}
	if err := s.unwind(); err != nil || len(order) != 3 {
		t.Errorf("an undo ran twice: %v, %v", err, order)
	}
}
