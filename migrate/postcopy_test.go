package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/pager"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/migrate"
	"migrate/restore"
	"migrate/transfer"
)

func isLost(err error) bool {
	var f *fail.Fault
	return errors.As(err, &f) && f.Code == fail.Lost
}

// useStay makes the container's memory that of the process, as usePrecopy does, and leaves it there until after the hand-over.
func (s *site) useStay(mode string) {
	s.t.Helper()
	s.usePrecopy()
	s.stays = mode
}

// paging stands for the pager and for the processes that miss pages: it asks for some before GO, as CRIU does, and for others as
// long as the container runs, and holds everything that comes against what the source has.
type paging struct {
	s        *site
	job      pager.Job
	requests chan pager.Request
	done     chan struct{} // closed when err is there
	settling sync.Once
	err      error

	mu        sync.Mutex
	absent    map[uint64]bool // pages, by address
	vpid      int
	planned   bool
	committed bool
}

func (s *site) startPager(_ context.Context, job pager.Job) (restore.Pager, error) {
	// room for every page, asked for once
	return &paging{s: s, job: job, requests: make(chan pager.Request, len(s.memory)/pageSize), done: make(chan struct{}), absent: map[uint64]bool{}}, nil
}

const pageSize = 4096

func (p *paging) settle(err error) {
	p.settling.Do(func() {
		p.err = err
		close(p.done)
	})
}

func (p *paging) bad(format string, a ...any) error {
	err := fmt.Errorf(format, a...)
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	p.s.badImgs = err
	return err
}

// compare looks at pages that are in the store.
func (p *paging) compare(addr uint64, pages, slot uint32) error {
	want := p.s.memory[addr-p.s.start:][:pages*pageSize]
	got := make([]byte, len(want))
	if slot != pager.ZeroSlot {
		f, err := os.Open(p.job.Store)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.ReadAt(got, int64(slot)*pageSize); err != nil && err != io.EOF {
			return err
		}
	}
	if string(got) != string(want) {
		return p.bad("%d pages at %#x are not what the source has", pages, addr)
	}
	return nil
}

func (p *paging) SetPlan(plan *pager.Plan) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range plan.Tasks {
		p.vpid = t.VPID
		for _, e := range t.Extents {
			if e.Slot != pager.RemoteSlot {
				if err := p.compare(e.Addr, e.Pages, e.Slot); err != nil {
					return err
				}
				continue
			}
			for i := range uint64(e.Pages) {
				p.absent[e.Addr+i*pageSize] = true
			}
		}
	}
	p.planned = true
	p.ask(2)
	return nil
}

// ask is called with mu held.
func (p *paging) ask(n int) {
	for addr := range p.absent {
		if n--; n < 0 {
			return
		}
		select {
		case p.requests <- pager.Request{VPID: p.vpid, Addr: addr}:
		default:
		}
	}
}

func (p *paging) Arrived(list ...pager.Arrival) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range list {
		if err := p.compare(a.Addr, a.Pages, a.Slot); err != nil {
			return err
		}
		for i := range uint64(a.Pages) {
			if !p.absent[a.Addr+i*pageSize] {
				return p.bad("page %#x came, and was not missing", a.Addr+i*pageSize)
			}
			delete(p.absent, a.Addr+i*pageSize)
		}
	}
	p.look()
	return nil
}

// look is called with mu held.
func (p *paging) look() {
	if len(p.absent) == 0 && p.committed && p.planned {
		p.settle(nil)
	}
}

func (p *paging) Guard(int) error { return nil }

func (p *paging) Commit() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.committed = true
	p.look()
	return nil
}

func (p *paging) Fill() error {
	go func() {
		for {
			select {
			case <-p.done:
				return
			case <-time.After(time.Millisecond):
				p.mu.Lock()
				p.ask(1 + rand.IntN(3))
				p.mu.Unlock()
			}
		}
	}()
	return nil
}

func (p *paging) Requests() <-chan pager.Request { return p.requests }

func (p *paging) Lose(cause string) error {
	p.s.dst.End(contID)
	p.settle(fmt.Errorf("%w: %s", pager.ErrLost, cause))
	return nil
}

func (p *paging) Filled(ctx context.Context) (pager.Stats, error) {
	select {
	case <-p.done:
		return pager.Stats{}, p.err
	case <-ctx.Done():
		return pager.Stats{}, ctx.Err()
	}
}

func (p *paging) Abort() { p.settle(pager.ErrFailed) }

var _ restore.Pager = (*paging)(nil)

// followed gathers what the source says, and runs something once it serves.
func (s *site) followed(serving func()) (notes func() string) {
	var mu sync.Mutex
	var all []string
	var once sync.Once
	s.observe = func(ev report.Event) {
		if ev.Phase == report.Serve && !ev.End && serving != nil {
			once.Do(serving)
		}
		mu.Lock()
		defer mu.Unlock()
		if ev.Note != "" {
			all = append(all, ev.Note)
		}
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(all, "\n")
	}
}

func TestMemoryStays(t *testing.T) {
	for _, mode := range []string{proto.ModePostcopy, proto.ModeHybrid} {
		t.Run(mode, func(t *testing.T) {
			s := newSite(t)
			s.useStay(mode)
			notes := s.followed(nil)
			rep, err := s.send(testContext(t))
			if err := s.check(rep, err); err != nil {
				t.Fatalf("%v\n%v\n%s", err, rep.Error, history(s))
			}
			f := rep.Fetch
			if f == nil || rep.Mode != mode || rep.Risk == "" || !strings.Contains(notes(), rep.Risk) || f.Reconnects != 0 || f.Twice != 0 {
				t.Fatalf("report %+v, fetch %+v, notes %s", rep, f, notes())
			}
			if rounds := len(rep.Rounds) > 0; rounds != (mode == proto.ModeHybrid) || mode == proto.ModePostcopy && f.Pages != int64(len(s.memory)/pageSize) {
				t.Errorf("%d rounds, %+v", len(rep.Rounds), f)
			}
			if msg, err := s.outcomes.Ask(rep.ID); err != nil || msg.Result != proto.OutcomeCommitted || msg.Fetch != proto.FetchOver {
				t.Errorf("the record says %+v, %v", msg, err)
			}
			if n := s.reunions.Waiting(); n != 0 {
				t.Errorf("%d migrations still wait", n)
			}
		})
	}
}

// The link breaks again and again while memory is still at the source.
func TestLinkBreaksWhileServing(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent=%v", silent), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.useStay(proto.ModePostcopy)
			first := cutAfter(1<<30, silent)
			s.link = func(n int) *cutter {
				if n == 1 {
					return first
				}
				if n <= 3 {
					return cutAfter(8+2*n, silent) // somewhere in what comes after RESUMED
				}
				return nil
			}
			notes := s.followed(func() { first.left.Store(3) })
			rep, err := s.send(testContext(t))
			if err := s.check(rep, err); err != nil {
				t.Fatalf("%v\n%v\n%s\n%s", err, rep.Error, notes(), history(s))
			}
			if rep.Fetch == nil || rep.Fetch.Reconnects < 1 || !strings.Contains(notes(), "reconnecting") {
				t.Errorf("fetch %+v, notes %s", rep.Fetch, notes())
			}
		})
	}
}

// GO's answer is lost, and with it the session: the source learns that the container is the destination's, and then serves.
func TestAnswerLostWithMemoryHere(t *testing.T) {
	s := newSite(t)
	s.useStay(proto.ModePostcopy)
	link := cutAfter(1<<30, true)
	s.link = func(n int) *cutter {
		if n == 1 {
			return link
		}
		return nil
	}
	s.observe = func(ev report.Event) {
		if ev.Phase == report.Handover && !ev.End {
			link.left.Store(1) // GO, and nothing else
		}
	}
	rep, err := s.send(testContext(t))
	if err := s.check(rep, err); err != nil {
		t.Fatalf("%v\n%v\n%s", err, rep.Error, history(s))
	}
}

// Nobody comes back: both sides give up, nothing runs, and the source keeps the container's files.
func TestLinkStaysBroken(t *testing.T) {
	s := newSite(t)
	s.useStay(proto.ModePostcopy)
	s.recover = 500 * time.Millisecond
	first := cutAfter(1<<30, false)
	s.link = func(int) *cutter { return first }
	s.dialFault = func(n int) error {
		if n > 1 {
			return errors.New("injected: no route")
		}
		return nil
	}
	var told atomic.Value
	s.onRecv = func(_ *restore.Result, err error) {
		if err != nil {
			told.Store(err)
		}
	}
	s.followed(func() { first.end() })
	rep, err := s.send(testContext(t))
	if cerr := s.check(rep, err); cerr != nil || !isLost(err) {
		t.Fatalf("%v, %v\n%s", cerr, err, history(s))
	}
	if err, _ := told.Load().(error); !isLost(err) {
		t.Errorf("the destination says %v", err)
	}
	if !slices.ContainsFunc(s.world.History(), func(ev fake.Event) bool { return ev.Host == "src" && ev.Op == fake.OpRetire }) {
		t.Error("the frozen copy is still there")
	}
	if msg, err := s.outcomes.Ask(rep.ID); err != nil || msg.Fetch != proto.FetchLost {
		t.Errorf("the record says %+v, %v", msg, err)
	}
}

// The user gives a container up whose memory is still here.
func TestGivenUpWhileServing(t *testing.T) {
	s := newSite(t)
	s.useStay(proto.ModePostcopy)
	s.recover = time.Second
	first := cutAfter(1<<30, true)
	s.link = func(int) *cutter { return first }
	ctx, cancel := context.WithCancel(testContext(t))
	defer cancel()
	s.dialFault = func(n int) error {
		if n > 1 {
			cancel()
			return errors.New("injected: no route")
		}
		return nil
	}
	s.followed(func() { first.left.Store(0) })
	rep, err := s.send(ctx)
	if cerr := s.check(rep, err); cerr != nil || !isLost(err) || !strings.Contains(err.Error(), "by hand") {
		t.Errorf("%v, %v\n%s", cerr, err, history(s))
	}
}

// Somebody else who may send cannot take a migration over, and who comes late is told what became of it.
func TestWhoComesBack(t *testing.T) {
	s := newSite(t)
	ask := func(id string) (proto.ResumedMsg, error) {
		var msg proto.ResumedMsg
		sess, err := s.dial(testContext(t))
		if err != nil {
			return msg, err
		}
		defer sess.Close()
		ctx := testContext(t)
		in, ictx, stop := proto.NewInbox(ctx, sess)
		defer stop(nil)
		if err := proto.Send(ctx, sess, proto.Resume, proto.ResumeMsg{ID: id}); err != nil {
			return msg, err
		}
		return msg, in.Recv(ictx, proto.Resumed, &msg)
	}
	id := func(n int) string { return fmt.Sprintf("%032x", n) }
	for n, fetch := range []string{"", proto.FetchGoesOn, proto.FetchOver, proto.FetchLost} {
		if err := errors.Join(s.outcomes.Begin(id(n)), s.outcomes.Commit(id(n), proto.CommittedMsg{}, fetch)); err != nil {
			t.Fatal(err)
		}
	}
	must(t, s.outcomes.Begin(id(4)))
	for n, want := range []string{proto.FetchBusy, proto.FetchBusy, proto.FetchOver, proto.FetchLost, proto.FetchBusy, proto.FetchLost} {
		if msg, err := ask(id(n)); err != nil || msg.State != want {
			t.Errorf("migration %d: %+v, %v, want %s", n, msg, err, want)
		}
	}
	// the agent has died, and its pager left a record
	log := filepath.Join(s.dir, "dst-log")
	must(t, os.MkdirAll(log, 0o700))
	for n, result := range []pager.Result{pager.ResultLost, pager.ResultFilled} {
		must(t, os.WriteFile(log+"/"+id(n)+"-fill.json", fmt.Appendf(nil, `{"result":%q,"cause":"why"}`, result), 0o600))
		want := []string{proto.FetchLost, proto.FetchOver}[n]
		for range 2 {
			if msg, err := ask(id(n)); err != nil || msg.State != want {
				t.Errorf("with the record %s: %+v, %v, want %s", result, msg, err, want)
			}
		}
	}
	if _, err := ask("nonsense"); err == nil {
		t.Error("nonsense was answered")
	}
	s.serving.Wait()
}

func TestGiven(t *testing.T) {
	s := newSite(t)
	s.useStay(proto.ModePostcopy)
	var during error
	s.followed(func() { during = migrate.Given(s.srcRun, "default", contID) })
	rep, err := s.send(testContext(t))
	must(t, s.check(rep, err))
	var f *fail.Fault
	if !errors.As(during, &f) || f.Code != fail.Container {
		t.Errorf("while its memory is served: %v", during)
	}
	if err := migrate.Given(s.srcRun, "default", contID); err != nil {
		t.Errorf("when all is over: %v", err)
	}
	note := s.srcRun + "/" + rep.ID + ".given"
	must(t, os.WriteFile(note, []byte(`{"container":"web","namespace":"default","pid":1,"start":"never"}`), 0o600))
	if err := migrate.Given(s.srcRun, "default", contID); err != nil {
		t.Errorf("of a process that is gone: %v", err)
	}
	if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
}

// An agent that serves one session takes no memory that would stay at the source.
func TestStayingNeedsAListener(t *testing.T) {
	s := newSite(t)
	s.useStay(proto.ModeHybrid)
	s.reunions = nil
	rep, err := s.send(testContext(t))
	must(t, s.check(rep, err))
	var f *fail.Fault
	if !errors.As(err, &f) || f.Code != fail.Refused || !strings.Contains(f.Remedy, "listens") {
		t.Errorf("%v", err)
	}
}

// A destination that lost the container says so, and is believed.
func TestToldThatItWasLost(t *testing.T) {
	s := newSite(t)
	s.useStay(proto.ModePostcopy)
	s.scripted(script{proto.Go: func(sess *transfer.Session) bool {
		say(proto.Committed, proto.CommittedMsg{Pid: 7})(sess)
		return say(proto.Fetched, proto.FetchedMsg{Lost: "the pager died"})(sess)
	}}, func(int, *transfer.Session) bool { return true })
	rep, err := s.send(testContext(t))
	if !isLost(err) || rep.Result != report.Lost || !strings.Contains(err.Error(), "the pager died") {
		t.Errorf("%v, %s", err, rep.Result)
	}
	s.wantRunning(t)
}

// An agent that is being stopped takes nothing in, and answers those who ask.
func TestStoppingAgent(t *testing.T) {
	s := newSite(t)
	s.answer = func(_ int, sess *transfer.Session) bool {
		_ = restore.Answer(testContext(t), sess, restore.Options{Outcomes: s.outcomes, Reunions: s.reunions, LogDir: s.dir})
		return true
	}
	rep, err := s.send(testContext(t))
	must(t, s.check(rep, err))
	var f *fail.Fault
	if !errors.As(err, &f) || f.Code != fail.Refused || !strings.Contains(f.Why, "stopped") {
		t.Errorf("%v", err)
	}
	ctx := testContext(t)
	for kind, want := range map[proto.Kind]proto.Kind{proto.Query: proto.Outcome, proto.Resume: proto.Resumed} {
		sess, err := s.dial(ctx)
		must(t, err)
		in, ictx, stop := proto.NewInbox(ctx, sess)
		must(t, proto.Send(ctx, sess, kind, proto.QueryMsg{ID: rep.ID}))
		if err := in.Recv(ictx, want, nil); err != nil {
			t.Errorf("%v: %v", kind, err)
		}
		_ = sess.Close()
		stop(nil)
	}
	s.serving.Wait()
}
