package migrate_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/transfer"
)

// script is a destination that says what a test wants: it follows the protocol up to the message it has an answer for.
type script map[proto.Kind]func(sess *transfer.Session) (end bool)

// play is the destination's side of a session. It takes every stream and lets it go.
func (sc script) play(sess *transfer.Session) {
	ctx, cancel := context.WithTimeout(context.Background(), slow)
	defer cancel()
	go drain(ctx, sess)
	for {
		k, _, err := sess.RecvControl(ctx)
		if err != nil {
			sess.Abort(err)
			return
		}
		if act := sc[proto.Kind(k)]; act != nil {
			if act(sess) {
				_ = sess.Close()
				return
			}
			continue
		}
		for _, m := range map[proto.Kind][]proto.Kind{proto.Offer: {proto.Prepared}, proto.Sent: {proto.Synced}, proto.Sealed: {proto.Ready}}[proto.Kind(k)] {
			_ = proto.Send(ctx, sess, m, nil)
		}
	}
}

// drain reads streams, and answers rounds.
func drain(ctx context.Context, sess *transfer.Session) {
	for {
		st, err := sess.Accept(ctx)
		if err != nil {
			return
		}
		go func() {
			for {
				if _, _, _, err := st.Next(); err != nil {
					break
				}
			}
			var meta proto.RoundMeta
			if st.Kind() == proto.StreamRW && json.Unmarshal(st.Meta(), &meta) == nil && !meta.Frozen {
				_ = proto.Send(ctx, sess, proto.Applied, nil)
			}
		}()
	}
}

func say(k proto.Kind, m any) func(*transfer.Session) bool {
	return func(sess *transfer.Session) bool {
		_ = proto.Send(context.Background(), sess, k, m)
		return false
	}
}

func giveUp(code fail.Code) func(*transfer.Session) bool {
	return func(sess *transfer.Session) bool {
		_ = proto.SendAbort(context.Background(), sess, &fail.Fault{Code: code, What: "restore the container", Why: "the test wants it"})
		return true
	}
}

// hangUp breaks the link.
func hangUp(sess *transfer.Session) bool {
	sess.Abort(errors.New("the test hangs up"))
	return true
}

// outcomes answers one session after the other with the next outcome; the last one stays. "" hangs up.
func outcomes(results ...string) (func(n int, sess *transfer.Session) bool, *atomic.Int32) {
	asked := &atomic.Int32{}
	return func(_ int, sess *transfer.Session) bool {
		ctx := context.Background()
		if k, _, err := sess.RecvControl(ctx); err != nil || proto.Kind(k) != proto.Query {
			return hangUp(sess)
		}
		i := min(int(asked.Add(1)), len(results)) - 1
		if results[i] == "" {
			return hangUp(sess)
		}
		_ = proto.Send(ctx, sess, proto.Outcome, proto.OutcomeMsg{Result: results[i], Commit: proto.CommittedMsg{Pid: 9}})
		_ = sess.Close()
		return true
	}, asked
}

// scripted makes the first session the script's, and those after it next's.
func (s *site) scripted(sc script, next func(int, *transfer.Session) bool) {
	s.answer = func(n int, sess *transfer.Session) bool {
		if n == 1 {
			sc.play(sess)
			return true
		}
		return next(n, sess)
	}
}

func (s *site) wantRunning(t *testing.T, hosts ...string) {
	t.Helper()
	if runs := s.world.Runs(contID); !slices.Equal(runs, hosts) {
		t.Errorf("it runs on %v, want %v", runs, hosts)
	}
}

func wantCode(t *testing.T, err error, code fail.Code) *fail.Fault {
	t.Helper()
	var f *fail.Fault
	if !errors.As(err, &f) {
		t.Fatalf("error is %v, want a Fault with code %s", err, code)
	}
	if f.Code != code {
		t.Errorf("code is %s, want %s: %v", f.Code, code, f)
	}
	return f
}

// Once GO has left, the source asks until it is told.
func TestSettleAsksUntilTold(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []string
		moved   bool
	}{
		{"committed", []string{proto.OutcomeCommitted}, true},
		{"aborted", []string{proto.OutcomeAborted}, false},
		{"pending, then committed", []string{proto.OutcomePending, proto.OutcomePending, proto.OutcomeCommitted}, true},
		{"pending, then aborted", []string{proto.OutcomePending, proto.OutcomeAborted}, false},
		{"unreachable, then committed", []string{"", "", proto.OutcomeCommitted}, true},
		{"unreachable, then aborted", []string{"", proto.OutcomeAborted}, false},
		{"nonsense, then aborted", []string{"perhaps", proto.OutcomeAborted}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			next, asked := outcomes(c.answers...)
			s.scripted(script{proto.Go: hangUp}, next)
			rep, err := s.send(testContext(t))
			if got := int(asked.Load()); got != len(c.answers) {
				t.Errorf("asked %d times, want %d", got, len(c.answers))
			}
			if c.moved {
				if err != nil || rep.Result != report.Moved || rep.Pid != 9 {
					t.Errorf("%v, %+v", err, rep)
				}
				s.wantRunning(t)
				return
			}
			wantCode(t, err, fail.Restore)
			s.wantRunning(t, "src")
		})
	}
}

// GO may have arrived: whoever gives up waiting leaves the container frozen.
func TestInDoubtStaysFrozen(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	next, asked := outcomes("")
	s.scripted(script{proto.Go: hangUp}, func(n int, sess *transfer.Session) bool {
		if n == 4 {
			cancel()
		}
		return next(n, sess)
	})
	rep, err := s.send(ctx)
	f := wantCode(t, err, fail.InDoubt)
	s.wantRunning(t)
	if rep.Result != report.InDoubt || f.State == "" || f.Remedy == "" {
		t.Errorf("report %q, fault %+v", rep.Result, f)
	}
	if n := asked.Load(); n < 2 {
		t.Errorf("asked %d times before the user gave up", n)
	}
	if left := s.stages(); len(left) > 0 {
		t.Errorf("memory of the container is left at %v", left)
	}
}

// A user who gives up in the very moment of GO does not make the source overhear the answer.
func TestCancelAfterGoWaitsForTheAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(*transfer.Session) bool
		want   []string
	}{
		{"committed", say(proto.Committed, proto.CommittedMsg{Pid: 9}), nil},
		{"aborted", giveUp(fail.Restore), []string{"src"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			s.scripted(script{proto.Go: func(sess *transfer.Session) bool {
				cancel()
				time.Sleep(200 * time.Millisecond)
				return c.answer(sess)
			}, proto.Released: say(proto.Done, nil)}, func(_ int, sess *transfer.Session) bool { return hangUp(sess) })
			rep, err := s.send(ctx)
			s.wantRunning(t, c.want...)
			if c.want == nil && (err != nil || rep.Result != report.Moved) {
				t.Errorf("%v, %s", err, rep.Result)
			}
			if c.want != nil {
				wantCode(t, err, fail.Restore)
			}
		})
	}
}

// What a destination gives as its reason does not decide what becomes of the container.
func TestAbortOfAnyCodeThaws(t *testing.T) {
	for _, code := range []fail.Code{fail.InDoubt, fail.Unfinished, fail.Cancelled, "", "made up", fail.Restore} {
		for _, at := range []proto.Kind{proto.Offer, proto.Sent, proto.Frozen, proto.Sealed, proto.Go} {
			t.Run(string(code)+" at "+at.String(), func(t *testing.T) {
				t.Parallel()
				s := newSite(t)
				s.scripted(script{at: giveUp(code)}, func(_ int, sess *transfer.Session) bool { return hangUp(sess) })
				rep, err := s.send(testContext(t))
				if err == nil {
					t.Fatal("no error")
				}
				s.wantRunning(t, "src")
				if rep.Result != report.Stayed {
					t.Errorf("report says %q", rep.Result)
				}
				if n := fail.Exit(err); n == 0 || n == 12 || n == 13 {
					t.Errorf("exit status %d", n)
				}
				if left := s.stages(); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
}

// The destination's runtime knows no hook: the restored container runs at once, without GO.
func TestRestoreThatIsNotHeld(t *testing.T) {
	s := newSite(t)
	s.noHold = true
	rep, err := s.send(testContext(t))
	wantCode(t, err, fail.Restore)
	if err := s.check(rep, err); err != nil && !strings.Contains(err.Error(), "runs on [src dst]") {
		t.Error(err)
	}
	// it cannot be helped that both run for a moment, but not on the destination's invitation
	killed := -1
	for i, ev := range s.world.History() {
		switch {
		case ev.Host == "dst" && ev.Op == "stops":
			killed = i
		case ev.Host == "src" && ev.Op == "resume" && killed < 0:
			t.Errorf("the source thawed before the destination's copy was killed:\n%s", history(s))
			return
		}
	}
}

// What starts dead containers again does not see the container from before the freeze, and sees it again only if it runs on here: not
// the copy that is left, also when that could not be deleted.
func TestShield(t *testing.T) {
	for _, c := range []struct {
		what  string
		fault string // at the source, or at the destination
		again bool
	}{{"moved", "", false}, {"not deleted", fake.OpRetire, false}, {"taken back", fake.OpStartTask, true}} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			faulty := func(op string, _ int) error {
				if op == c.fault {
					return errors.New("injected")
				}
				return nil
			}
			s.src.Fault, s.dst.Fault = faulty, faulty
			_, err := s.send(testContext(t))
			if (err != nil) != (c.fault != "") {
				t.Errorf("Send: %v", err)
			}
			shielded, paused, again := -1, -1, false
			for i, ev := range s.world.History() {
				switch {
				case ev.Host == "src" && ev.Op == fake.OpShield:
					shielded = i
				case ev.Host == "src" && ev.Op == fake.OpPause:
					paused = i
				case ev.Op == "undo "+fake.OpShield:
					again = true
				}
			}
			if shielded < 0 || paused < shielded || again != c.again {
				t.Errorf("hidden at %d, paused at %d, shown again: %v\n%s", shielded, paused, again, history(s))
			}
		})
	}
}

// That the container may become the destination's is noted before it can: without the note it stays.
func TestDoubt(t *testing.T) {
	for _, fails := range []bool{false, true} {
		t.Run(fmt.Sprintf("fails=%v", fails), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.src.Fault = func(op string, _ int) error {
				if op == fake.OpDoubt && fails {
					return errors.New("injected")
				}
				return nil
			}
			_, err := s.send(testContext(t))
			if (err != nil) != fails {
				t.Errorf("Send: %v", err)
			}
			s.wantRunning(t, map[bool]string{true: "src", false: "dst"}[fails])
			noted, runs := -1, -1
			for i, ev := range s.world.History() {
				switch {
				case ev.Op == fake.OpDoubt:
					noted = i
				case ev.Host == "dst" && ev.Op == "runs":
					runs = i
				}
			}
			if noted < 0 || (runs < 0) != fails || !fails && runs < noted {
				t.Errorf("noted at %d, runs at %d\n%s", noted, runs, history(s))
			}
		})
	}
}

// An engine that does not answer for a moment is asked again to take a container into its care for good.
func TestAdoptAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.dst.Fault = func(op string, n int) error {
		if op == fake.OpAdopt && n == 1 {
			return errors.New("injected")
		}
		return nil
	}
	if _, err := s.send(testContext(t)); err != nil {
		t.Fatal(err)
	}
	s.wantRunning(t, "dst")
	adopted := 0
	for _, ev := range s.world.History() {
		if ev.Op == fake.OpAdopt {
			adopted++
		}
	}
	if adopted != 2 {
		t.Errorf("the engine was asked %d times", adopted)
	}
}

// The container moved; what fails at the source afterwards is told as just that, whatever it looks like.
func TestUnfinished(t *testing.T) {
	for _, cause := range []error{errors.New("injected"), context.DeadlineExceeded, io.ErrUnexpectedEOF} {
		t.Run(cause.Error(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.src.Fault = func(op string, _ int) error {
				if op == fake.OpRetire {
					return cause
				}
				return nil
			}
			rep, err := s.send(testContext(t))
			f := wantCode(t, err, fail.Unfinished)
			if rep.Result != report.Moved || f.State == "" || fail.Exit(err) != 13 {
				t.Errorf("report %q, fault %+v", rep.Result, f)
			}
			s.wantRunning(t, "dst")
		})
	}
}

// What fails in the dump is told with its first cause, and the container runs on.
func TestDumpFails(t *testing.T) {
	s := newSite(t)
	s.mode = "fail"
	rep, err := s.send(testContext(t))
	f := wantCode(t, err, fail.Checkpoint)
	if !strings.Contains(f.Why, "Unsupported proto 262") || !strings.Contains(f.Remedy, "multipathtcp=0") {
		t.Errorf("fault is %+v", f)
	}
	if b, rerr := os.ReadFile(f.Log); rerr != nil || !strings.Contains(string(b), "proto 262") {
		t.Errorf("log %q: %v", f.Log, rerr)
	}
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
}

// A runtime that ignores the configuration does not end the container, nor does it move.
func TestRuntimeWithoutHook(t *testing.T) {
	s := newSite(t)
	s.mode = "no-hook"
	rep, err := s.send(testContext(t))
	wantCode(t, err, fail.Checkpoint)
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
}

// A dump that hangs is given up when the container has stood still for long enough.
func TestDumpHangs(t *testing.T) {
	s := newSite(t)
	s.mode, s.timeout = "hang", 500*time.Millisecond
	began := time.Now()
	rep, err := s.send(testContext(t))
	f := wantCode(t, err, fail.Timeout)
	if !strings.Contains(f.Remedy, "--timeout") {
		t.Errorf("fault is %+v", f)
	}
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}

// An engine that is just starting again thaws a little later.
func TestThawIsTriedAgain(t *testing.T) {
	s := newSite(t)
	s.mode = "fail"
	s.src.Fault = func(op string, n int) error {
		if op == fake.OpResume && n < 3 {
			return errors.New("injected: no engine")
		}
		return nil
	}
	rep, err := s.send(testContext(t))
	wantCode(t, err, fail.Checkpoint)
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
}

// What was changed is taken back in the reverse order.
func TestUnwindingOrder(t *testing.T) {
	s := newSite(t)
	s.dst.Fault = func(op string, _ int) error {
		if op == fake.OpStartTask {
			return errors.New("injected")
		}
		return nil
	}
	rep, err := s.send(testContext(t))
	wantCode(t, err, fail.Restore)
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
	var undone, made []string
	for _, ev := range s.world.History() {
		if op, ok := strings.CutPrefix(ev.Op, "undo "); ok && ev.Host == "dst" {
			undone = append(undone, op)
		}
		switch ev.Op {
		case fake.OpHold, fake.OpPrepareImage, fake.OpPrepareRootfs, fake.OpRegister, fake.OpPrepareTask:
			made = append(made, ev.Op)
		}
	}
	undone = slices.DeleteFunc(undone, func(op string) bool { return op == fake.OpSetupNetwork }) // it is made beside the rest
	slices.Reverse(made)
	if !slices.Equal(undone, made) {
		t.Errorf("undone %v, want %v", undone, made)
	}
}

// Whatever the destination says of itself cannot change what is measured here.
func TestPeersTimesAreNotBelieved(t *testing.T) {
	for _, lag := range []float64{-1e15, 1e15, 1e300} {
		s := newSite(t)
		s.scripted(script{proto.Go: say(proto.Committed, proto.CommittedMsg{Pid: 9, LagMS: lag}), proto.Released: say(proto.Done, nil)},
			func(_ int, sess *transfer.Session) bool { return hangUp(sess) })
		rep, err := s.send(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if rep.DowntimeMS < 0 || rep.DowntimeMS > rep.TotalMS {
			t.Errorf("lag %v: downtime %v of %v ms", lag, rep.DowntimeMS, rep.TotalMS)
		}
		for _, p := range rep.Downtime {
			if p.MS < 0 {
				t.Errorf("lag %v: parts %v", lag, rep.Downtime)
			}
		}
	}
}

// A second round after the dump, which CRIU made necessary, may meet a destination that is not done with the first.
func TestDumpThatTouchesFiles(t *testing.T) {
	s := newSite(t)
	s.mode = "remap"
	t.Setenv("TMPDIR", t.TempDir()) // where the fake engine's upper directories come to be
	s.dst.Fault = func(op string, _ int) error {
		if op == fake.OpPrepareTask {
			time.Sleep(300 * time.Millisecond)
		}
		return nil
	}
	rep, err := s.send(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), "fake-upper-*", "etc", "link_remap.*"))
	if len(dirs) != 1 {
		t.Errorf("what CRIU made in the RW layer is at %v", dirs)
	}
}
