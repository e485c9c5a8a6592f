package migrate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/network"
	"migrate/internal/precopy"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/track"
	"migrate/layers"
	"migrate/transfer"
)

// Options of one migration.
type Options struct {
	Container    string       // id at the source
	Namespace    string       // of the engine, in which it is
	Name         string       // id at the destination; "" keeps the source's
	Destination  string       // for messages
	KeepSource   bool         // keep the source's container record and snapshot, stopped
	TCP          criu.TCPMode // what becomes of established connections
	Memory       MemoryOptions
	Storage      StorageOptions
	Networks     map[string]string    // CNI networks of the destination, by those here whose place they take; "" stands for the only one
	ExecSessions string               // SessionsEnd or SessionsRefuse, which "" stands for
	Codec        transfer.CodecChoice // compression of bulk data
	Timeout      time.Duration        // how long the container may stand still before it is thawed; 0: DefaultTimeout
	Guard        []string             // how to run this program as a guard, see criu.RunGuard
	Throttler    []string             // how to run this program as a throttle.Keep
	EngineSpec   string               // handed to the guard: how to reach the engine again
	RunDir       string               // for stages, e.g. /run/migrate
	LogDir       string               // for CRIU's logs of failed migrations
	Observe      report.Observer      // may be nil
	Log          *slog.Logger         // may be nil
	Ignore       []string             // codes of findings that are not to stand in the way

	// Dial makes a session. It is called again to ask for an outcome.
	Dial func(context.Context) (*transfer.Session, error)
}

// DefaultTimeout bounds the time a container stands still.
const DefaultTimeout = 120 * time.Second

// Limits of single steps. A step that exceeds its limit is given up and taken back.
const (
	engineLimit = 30 * time.Second // one call of the engine
	lockLimit   = time.Minute      // until the guard of an agent that died is through
	abortLimit  = 10 * time.Second // for CRIU to let the tasks go again
	undoLimit   = 60 * time.Second // all undos together
	// how long a failed migration waits to hear that nothing is left at the destination
	peerCleanUpLimit = 20 * time.Second
)

// sender is one migration under way.
type sender struct {
	opt   Options
	eng   engine.Source
	sess  *transfer.Session
	log   *slog.Logger
	clock *report.Clock
	rep   *report.Report
	m     *handover.Machine
	offer proto.OfferMsg
	ready proto.PreparedMsg

	c          *engine.Container
	h          *engine.Handles
	started    string        // when its first process was, by which it is told from one that was started anew
	index      *layers.Index // what the destination holds of the RW layer
	fileRounds int           // of the RW layer, so far
	volumes    []*volume     // what is mounted beside the root file system, as in the offer
	stage      *criu.Stage
	dump       *criu.Dump
	tracker    track.Tracker   // of memory, nil unless it is copied in rounds
	copier     *precopy.Copier // likewise
	throttler  *throttler      // nil unless the container may be slowed down
	busy       bool            // the container writes a lot
	shared     *sharedMemory   // likewise
	held       *os.File        // keeps the container locked for whoever inherits it
	lock       *network.Lock   // nil unless the container has a network of its own
	packets    *packets        // nil if they are not kept
	neighbours []network.Neighbour
	leaving    []netip.Addr    // addresses of the container that stay here
	renewed    map[string]bool // interfaces that the destination attaches to another network
	undos      []undo
	streams    []proto.StreamSum
	serving    *serving     // nil unless memory stays here
	given      *note        // that the container is the destination's; nil before it is
	doubted    func() error // waits until it is noted that the container may become the destination's
	earlier    int64        // bytes sent on sessions that broke

	// when the parts of the downtime began
	frozenAt, heldAt, sealedAt, readyAt, goAt, doneAt time.Time

	inbox     *proto.Inbox
	cancel    context.CancelCauseFunc // ends the context that the inbox ends with
	user      context.Context         // the caller's: it ends when the user gives up, whatever the peer does
	frozenCtx context.Context         // ends when the container has stood still for too long
	peerFault *fail.Fault             // what the destination gave up for

	mu sync.Mutex // guards streams and the report's volumes
}

type undo struct {
	what string
	run  func(context.Context) error
}

// Send moves a container. The report is never nil. When err is nil the container runs at the destination; otherwise err is
// a *fail.Fault, and the report's Result says where the container is.
func Send(ctx context.Context, eng engine.Source, opt Options) (*report.Report, error) {
	s := newSender(eng, opt)
	defer s.clock.Enter("")
	s.user = ctx
	err := s.run(ctx)
	if err != nil {
		err = s.giveUp(ctx, err)
	}
	s.finishReport(err)
	return s.rep, err
}

func newSender(eng engine.Source, opt Options) *sender {
	if opt.Timeout == 0 {
		opt.Timeout = DefaultTimeout
	}
	opt.Memory.setDefaults()
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	s := &sender{opt: opt, eng: eng, log: opt.Log, clock: report.NewClock(opt.Observe), m: handover.NewSource(),
		doubted: func() error { return nil }}
	s.offer.ID = hex.EncodeToString(id[:])
	s.offer.Epoch = uint64(time.Now().UnixNano())
	s.rep = &report.Report{
		Version: report.Version, ID: s.offer.ID, Container: opt.Container, Destination: opt.Destination,
		Result: report.Stayed, Started: time.Now(), TCP: string(opt.TCP),
	}
	return s
}

// run is the straight way.
func (s *sender) run(ctx context.Context) (err error) {
	s.clock.Enter(report.Offer)
	if err := s.inspect(ctx); err != nil {
		return err
	}
	if ctx, err = s.propose(ctx); err != nil {
		return err
	}
	s.clock.Enter(report.Sync)
	if err := s.sync(ctx); err != nil {
		return err
	}
	if err := s.precopy(ctx); err != nil {
		return err
	}
	if err := s.lookAgain(ctx); err != nil {
		return err
	}
	if err := s.prepareDump(ctx); err != nil {
		return err
	}
	if err := s.lastRound(ctx); err != nil {
		return err
	}
	fctx, cancel := context.WithTimeoutCause(ctx, s.opt.Timeout, errFrozenTooLong)
	defer cancel()
	s.frozenCtx = fctx
	if err := s.freezeAndShip(fctx); err != nil {
		return err
	}
	s.clock.Enter(report.Restore)
	if err := s.awaitReady(fctx); err != nil {
		return err
	}
	s.clock.Enter(report.Handover)
	if err := s.handOver(fctx); err != nil {
		return err
	}
	return s.finish(ctx)
}

// errFrozenTooLong is the cause of a context that ends because the container stood still for too long.
var errFrozenTooLong = errors.New("the container would have stood still for longer than the time limit")

func (s *sender) push(what string, run func(context.Context) error) {
	s.undos = append(s.undos, undo{what, run})
}

// thawFirst runs the undo that thaws the container, if it is the next one and the container is this side's.
func (s *sender) thawFirst() error {
	n := len(s.undos) - 1
	if n < 0 || s.undos[n].what != undoThaw || !s.m.MayThaw() {
		return nil
	}
	thaw := s.undos[n]
	s.undos = s.undos[:n]
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	return thaw.run(ctx)
}

// unwind runs the undos last-in first-out, with a context of its own.
func (s *sender) unwind() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	var errs []error
	for len(s.undos) > 0 {
		u := s.undos[len(s.undos)-1]
		s.undos = s.undos[:len(s.undos)-1]
		if err := u.run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", u.what, err))
		}
	}
	return errors.Join(errs...)
}

// giveUp ends a failed migration: the peer is told, the container thawed if it is ours to thaw, and err made a Fault.
func (s *sender) giveUp(ctx context.Context, err error) error {
	frozen := !s.frozenAt.IsZero()
	// first of all the container goes on; nothing can run at the destination without GO
	terr := s.thawFirst()
	stood := time.Since(s.frozenAt)
	f := s.classify(ctx, err)
	s.stopServing()
	if st := s.m.State(); st == handover.InDoubt || st == handover.Serving || st == handover.Released {
		s.closeSession()
		return f
	}
	if s.stage != nil && s.heldAt.IsZero() {
		s.keepLog(f) // a dump that was complete explains nothing
	}
	told := s.tell(f)
	uerr := errors.Join(terr, s.unwind())
	if told {
		s.awaitCleanUp()
	}
	if s.m.State() != handover.Running {
		_ = s.m.On(handover.EvAbort)
	}
	s.closeSession()
	if uerr != nil {
		s.rep.Result = report.Stuck
	}
	switch {
	case s.c != nil:
		f.State = s.stateText(frozen, stood, uerr)
	case f.Code == fail.Unsupported: // engines say so of containers that run
		f.State = untouched(s.opt.Container)
	}
	return f
}

// tell sends ABORT, unless the peer was the one to give up or the link is gone.
func (s *sender) tell(f *fail.Fault) bool {
	if s.sess == nil || s.peerFault != nil || s.sess.Err() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := proto.SendAbort(ctx, s.sess, f); err != nil {
		s.log.Debug("tell the destination", "err", err)
		return false
	}
	return true
}

// awaitCleanUp waits, a bounded time, for the destination's clean-up: it ends its side of the session after that.
func (s *sender) awaitCleanUp() {
	select {
	case <-s.inbox.Closed():
	case <-time.After(peerCleanUpLimit):
		s.log.Warn("the destination has not confirmed its clean-up")
	}
}

func (s *sender) closeSession() {
	if s.sess == nil {
		return
	}
	defer s.cancel(nil)
	if err := s.sess.Close(); err != nil && !errors.Is(err, transfer.ErrClosed) {
		s.log.Debug("close session", "err", err)
	}
}

func (s *sender) stateText(frozen bool, stood time.Duration, uerr error) string {
	if uerr != nil {
		return fmt.Sprintf("taking the migration back failed: %v; look at the container before anything else", uerr)
	}
	if frozen {
		return fmt.Sprintf("container %q runs on at the source, with its connections; it stood still for %d ms",
			s.c.ID, stood.Milliseconds())
	}
	return untouched(s.c.ID)
}

func untouched(id string) string {
	return fmt.Sprintf("container %q runs on at the source; it was never stopped", id)
}

// keepLog saves CRIU's log before its stage goes, and names it in the fault.
func (s *sender) keepLog(f *fail.Fault) {
	log := criu.DumpLog(s.stage.Work())
	if f.Log != "" && f.Log != log {
		return
	}
	if _, err := os.Stat(log); err != nil {
		return
	}
	if p, err := criu.KeepLog(log, s.opt.LogDir, s.offer.ID+"-dump.log"); err == nil {
		f.Log = p
	} else {
		s.log.Warn("keep CRIU's log", "err", err)
	}
}
