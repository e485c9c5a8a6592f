package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"migrate/internal/criu"
	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/handover"
	"migrate/internal/network"
	"migrate/internal/pager"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/transfer"
)

// Options of a destination agent, the same for all its migrations.
type Options struct {
	Policy   Policy
	Outcomes *Outcomes       // what became of earlier migrations
	Reunions *Reunions       // of the agent's sessions; nil: memory must not stay at the source
	Incoming string          // directory of notes for Sweep; "" keeps none
	RunDir   string          // for stages, e.g. /run/migrate
	LogDir   string          // for CRIU's logs of failed restores
	Files    string          // directory for files that containers have bound and no user made; "" refuses such containers
	Left     string          // directory of notes on content that has left this host; "" if there are none
	Pager    []string        // how to run this program as a pager, see pager.RunMain
	Filler   []string        // how to run this program as a filler, see filler.Run
	Canary   []string        // how to run this program as a canary, see canary.RunMain
	Observe  report.Observer // may be nil
	Log      *slog.Logger    // may be nil
	// StartPager starts what fills memory; nil: processes of their own, by Pager.
	StartPager func(context.Context, pager.Job) (Pager, error)
	// OpenEngine connects to the engine of a name, as descriptions have it, for a namespace; the engine is closed when the
	// migration is over. An empty name stands for the one that has files here, see Files.
	OpenEngine func(ctx context.Context, name, namespace string) (engine.Engine, error)
}

// Result is what Recv took in.
type Result struct {
	ID        string // of the migration
	Container string // its id here
	Namespace string
	Pid       int
}

// Limits of single steps at the destination.
const (
	undoLimit   = 60 * time.Second
	engineLimit = 60 * time.Second
	holdDefault = 120 * time.Second
	firstLimit  = 30 * time.Second // from the session's start to its first message
)

// receiver is one migration being taken in.
type receiver struct {
	opt   Options
	eng   engine.Engine
	sess  *transfer.Session
	inbox *proto.Inbox
	log   *slog.Logger
	clock *report.Clock
	m     *handover.Machine
	offer proto.OfferMsg

	c        *engine.Container // as it will be registered here
	spec     json.RawMessage   // with this migration's annotation
	confAt   string            // CRIU's configuration, as the annotation names it
	upper    string
	stage    *criu.Stage
	hook     *criu.Hook
	netns    string // of a container with a network of its own, once it is there
	unfilled string // the same while there is nothing in it
	lock     *network.Lock
	packets  *packets // nil unless the container has a network of its own
	streams  *streams
	memory   *memory // unless it is proto.ModeStop
	volumes  []*volume
	init     int // the first of the processes that are held
	resumed  time.Time
	frozen   proto.FrozenMsg

	fetching *fetching // nil unless memory is still at the source; under the lock of streams until the container runs

	mu       sync.Mutex
	undos    []undo
	network  chan error // result of SetupNetwork
	started  chan startResult
	pids     chan error  // how PassPids went
	taskUndo engine.Undo // of the task that PrepareTask made
	steps    map[string]float64
	note     incoming
	lease    engine.Undo
	cancel   context.CancelCauseFunc // ends the migration's context
	bg       sync.WaitGroup          // steps under way beside the straight one; they end with that context
}

type startResult struct {
	pid int
	err error
}

type undo struct {
	what string
	run  func(context.Context) error
}

// Recv serves one session to its end and closes it. A nil Result with a nil error means that a question was answered.
func Recv(ctx context.Context, sess *transfer.Session, opt Options) (*Result, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	fctx, cancel := context.WithTimeout(ctx, firstLimit)
	kind, payload, err := proto.First(fctx, sess)
	cancel()
	if err != nil {
		sess.Abort(err)
		return nil, fail.New(fail.Connection, "receive a migration", err)
	}
	switch kind {
	case proto.Query:
		return nil, answer(ctx, sess, opt.Outcomes, payload)
	case proto.Resume:
		return nil, comeBack(ctx, sess, opt, payload)
	case proto.Check:
		return nil, checkSession(ctx, sess, opt, payload)
	case proto.Offer:
	default:
		err := fmt.Errorf("protocol error: session begins with %v", kind)
		sess.Abort(err)
		return nil, fail.New(fail.Connection, "receive a migration", err)
	}
	r := &receiver{opt: opt, sess: sess, log: opt.Log, clock: report.NewClock(opt.Observe), m: handover.NewDestination(),
		network: make(chan error, 1), started: make(chan startResult, 1), steps: map[string]float64{}}
	defer r.clock.Enter("")
	res, err := r.serve(ctx, payload)
	if err != nil && r.m.State() != handover.Gone {
		err = r.giveUp(err)
	}
	r.cancel(err)
	return res, err
}

// Answer serves a session of an agent that takes in no more containers: one on which a source comes back to a migration that is under
// way here, or asks what became of one.
func Answer(ctx context.Context, sess *transfer.Session, opt Options) error {
	fctx, cancel := context.WithTimeout(ctx, firstLimit)
	kind, payload, err := proto.First(fctx, sess)
	cancel()
	if err != nil {
		sess.Abort(err)
		return fail.New(fail.Connection, "answer a source", err)
	}
	switch kind {
	case proto.Query:
		return answer(ctx, sess, opt.Outcomes, payload)
	case proto.Resume:
		return comeBack(ctx, sess, opt, payload)
	}
	f := &fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination", Why: "its agent is being stopped", Remedy: "try again when it runs again"}
	if err := proto.SendAbort(ctx, sess, f); err != nil {
		sess.Abort(err)
		return f
	}
	_ = sess.Close() // the source has its answer
	return f
}

// serve is the straight way.
func (r *receiver) serve(ctx context.Context, offer []byte) (*Result, error) {
	r.inbox, ctx, r.cancel = proto.NewInbox(ctx, r.sess)
	if err := json.Unmarshal(offer, &r.offer); err != nil {
		return nil, fmt.Errorf("decode %v: %w", proto.Offer, err)
	}
	r.log = r.log.With("migration", r.offer.ID, "container", r.offer.Container.ID, "from", r.offer.Host)
	r.clock.Enter(report.Offer)
	ctx, err := r.prepare(ctx)
	if err != nil {
		return nil, err
	}
	r.clock.Enter(report.Sync)
	if err := r.sync(ctx); err != nil {
		return nil, err
	}
	if err := r.awaitFrozen(ctx); err != nil {
		return nil, err
	}
	if err := r.receiveFrozen(ctx); err != nil {
		return nil, err
	}
	r.clock.Enter(report.Restore)
	if err := r.restore(ctx); err != nil {
		return nil, err
	}
	r.clock.Enter(report.Handover)
	pid, err := r.resume(ctx)
	if err != nil {
		return nil, err
	}
	r.clock.Enter(report.Finish)
	if err := r.finish(ctx); err != nil {
		return nil, err
	}
	return &Result{ID: r.offer.ID, Container: r.c.ID, Namespace: r.c.Namespace, Pid: pid}, nil
}

func (r *receiver) push(what string, run func(context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.undos = append(r.undos, undo{what, run})
}

// pushUndo is push for the engine's undos, which may be nil.
func (r *receiver) pushUndo(what string, u engine.Undo) {
	if u != nil {
		r.push(what, u)
	}
}

// unwind takes everything back, last step first, with a context of its own.
func (r *receiver) unwind() error {
	ctx, cancel := context.WithTimeout(context.Background(), undoLimit)
	defer cancel()
	r.mu.Lock()
	undos := r.undos
	r.undos = nil
	r.mu.Unlock()
	var errs []error
	for i := len(undos) - 1; i >= 0; i-- {
		if err := undos[i].run(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", undos[i].what, err))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, r.note.forget()) // otherwise the next agent tries again
	}
	return errors.Join(errs...)
}

// giveUp destroys what is here of the container, and only then tells the source, which may thaw its own at that word.
func (r *receiver) giveUp(err error) error {
	err = r.firstCause(err)
	f := r.classify(err)
	r.keepLog(f)
	// it may be running: the source must not hear that it may thaw before nothing is left here
	after := r.m.State() == handover.Resuming || errors.Is(err, errRanEarly)
	if s := r.m.State(); s == handover.Owner || s == handover.Fetching {
		// the container runs here and stays; only the end of the migration failed
		r.sess.Abort(err)
		return f
	}
	var ab *proto.AbortError
	peerGaveUp := errors.As(err, &ab)
	if !after && !peerGaveUp {
		r.tell(f) // the source need not wait for our clean-up: nothing can run here without GO
	}
	// a step that ends after the unwinding would leave what it made
	r.cancel(err)
	r.bg.Wait()
	if uerr := r.unwind(); uerr != nil {
		r.log.Error("clean up", "err", uerr)
		f.State = fmt.Sprintf("the destination could not clean up: %v", uerr)
		if after {
			// not proven dead: the source must not thaw
			r.sess.Abort(uerr)
			return f
		}
	}
	if after {
		if r.m.State() != handover.Resuming {
			_ = r.m.On(handover.EvAbort)
		} else {
			_ = r.m.On(handover.EvFailed)
		}
		if oerr := r.opt.Outcomes.Abort(r.offer.ID); oerr != nil {
			r.log.Error("record the outcome", "err", oerr)
			r.sess.Abort(oerr)
			return f
		}
		r.tell(f)
	} else {
		_ = r.m.On(handover.EvAbort)
	}
	if cerr := r.sess.Close(); cerr != nil {
		r.log.Debug("close session", "err", cerr)
	}
	return f
}

func (r *receiver) tell(f *fail.Fault) {
	if r.sess.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := proto.SendAbort(ctx, r.sess, f); err != nil {
		r.log.Debug("tell the source", "err", err)
	}
}

// keepLog saves CRIU's log of a failed restore.
func (r *receiver) keepLog(f *fail.Fault) {
	if r.stage == nil {
		return
	}
	log := r.restoreLog()
	if _, err := os.Stat(log); err != nil {
		return
	}
	p, err := criu.KeepLog(log, r.opt.LogDir, r.offer.ID+"-restore.log")
	if err != nil {
		r.log.Warn("keep CRIU's log", "err", err)
		return
	}
	f.Log = p
}

func (r *receiver) endLease(ctx context.Context) error {
	if r.lease == nil {
		return nil
	}
	return r.lease(ctx)
}
