package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
)

// schedule is what goes wrong in one migration, all of it derived from a seed.
type schedule struct {
	src, dst  map[string]int // operation to the call, from 1, that fails
	cut       int            // writes after which the first session breaks; -1: never
	cutAsk    int            // the same for the sessions after it
	silent    bool           // breaks without a word
	dialFails int            // sessions after the first that cannot be made
	mode      string         // of the runtime
	cancel    time.Duration  // when the user gives up; 0: not before GO is settled
	precopy   bool           // memory is copied in rounds
	stays     string         // the mode in which it stays at the source; "" for none
	undoFails bool           // a step of the clean-up fails, so that something may be left
}

var (
	srcOps = []string{
		fake.OpInfo, fake.OpInspect, fake.OpOpenBlob, fake.OpLock, fake.OpShield, fake.OpDoubt, fake.OpPause, fake.OpForsake, fake.OpRetire, fake.OpResume,
	}
	dstOps = []string{
		fake.OpInfo, fake.OpCheckFree, fake.OpMissingBlobs, fake.OpHold, fake.OpIngestBlob, fake.OpPrepareImage, fake.OpPrepareRootfs,
		fake.OpSetupNetwork, fake.OpRegister, fake.OpPrepareTask, fake.OpStartTask, fake.OpAdopt,
	}
	undoOps = []string{fake.OpPrepareTask, fake.OpPrepareRootfs, fake.OpRegister, fake.OpPrepareImage, fake.OpHold, fake.OpSetupNetwork}
)

func newSchedule(seed uint64) schedule {
	r := rand.New(rand.NewPCG(seed, 0x6d696772617465))
	pick := func(ops []string) string { return ops[r.IntN(len(ops))] }
	sc := schedule{src: map[string]int{}, dst: map[string]int{}, cut: -1, cutAsk: -1, precopy: seed%2 == 0}
	for range r.IntN(3) {
		switch r.IntN(10) {
		case 0, 1:
			sc.src[pick(srcOps)] = 1 + r.IntN(2)
		case 2, 3, 4:
			sc.dst[pick(dstOps)] = 1 + r.IntN(2)
		case 5:
			sc.dst["undo "+pick(undoOps)], sc.undoFails = 1, true
		case 6, 7, 8:
			sc.cut, sc.silent = r.IntN(80), r.IntN(4) == 0
		case 9:
			sc.mode = "fail"
		}
	}
	if r.IntN(3) == 0 {
		sc.cutAsk = r.IntN(6)
	}
	if r.IntN(4) == 0 {
		sc.dialFails = r.IntN(3)
	}
	if seed%4 == 1 {
		sc.stays = []string{proto.ModePostcopy, proto.ModeHybrid}[seed/4%2]
		if sc.cut >= 0 && r.IntN(2) == 0 {
			sc.cut += 60 // while memory is served
		}
	}
	if r.IntN(6) == 0 {
		sc.cancel = time.Duration(r.IntN(400)) * time.Millisecond
	}
	return sc
}

func (sc schedule) onlyCut() bool {
	return len(sc.src)+len(sc.dst) == 0 && sc.cut >= 0 && sc.mode == "" && sc.cancel == 0
}

func (sc schedule) apply(s *site) {
	if sc.precopy {
		s.usePrecopy()
	}
	if sc.stays != "" {
		s.useStay(sc.stays)
	}
	faulty := func(at map[string]int) func(string, int) error {
		return func(op string, n int) error {
			if at[op] == n {
				return errors.New("injected")
			}
			return nil
		}
	}
	s.src.Fault, s.dst.Fault, s.mode = faulty(sc.src), faulty(sc.dst), sc.mode
	s.dialFault = func(n int) error {
		if n > 1 && n <= 1+sc.dialFails {
			return errors.New("injected: no route")
		}
		return nil
	}
	s.link = func(n int) *cutter {
		switch {
		case n == 1 && sc.cut >= 0:
			return cutAfter(sc.cut, sc.silent)
		case n == 2 && sc.cutAsk >= 0:
			return cutAfter(sc.cutAsk, sc.silent)
		}
		return nil
	}
}

// TestSchedules runs migrations in which things fail at seeded places, and holds what comes of them against the rules of
// the hand-over: never two copies, and none lost. MIGRATE_SCHEDULES says how many, MIGRATE_SEED which one alone.
func TestSchedules(t *testing.T) {
	needRoot(t)
	from, n := uint64(1), uint64(40)
	if v, err := strconv.ParseUint(os.Getenv("MIGRATE_SCHEDULES"), 10, 32); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("MIGRATE_SEED"), 10, 64); err == nil {
		from, n = v, 1
	}
	var mu sync.Mutex
	ends := map[string]int{}
	t.Run("seeds", func(t *testing.T) {
		for seed := from; seed < from+n; seed++ {
			t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
				t.Parallel()
				end := runSchedule(t, newSchedule(seed))
				mu.Lock()
				defer mu.Unlock()
				ends[end]++
			})
		}
	})
	t.Logf("ends: %v", ends)
	if from == 1 && n >= 40 && (ends["moved"] == 0 || ends[string(fail.Connection)] == 0) {
		t.Errorf("the schedules reach too little: %v", ends)
	}
}

func runSchedule(t *testing.T, sc schedule) string {
	s := newSite(t)
	sc.apply(s)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if sc.cancel > 0 {
		defer time.AfterFunc(sc.cancel, cancel).Stop()
	}
	// whoever waits for an outcome that never comes gives up in the end
	defer time.AfterFunc(slow/2, cancel).Stop()
	var notes []string
	s.observe = func(ev report.Event) {
		if ev.Note != "" {
			notes = append(notes, ev.Note)
		}
	}
	type end struct {
		rep *report.Report
		err error
	}
	done := make(chan end, 1)
	go func() {
		rep, err := s.send(ctx)
		done <- end{rep, err}
	}()
	var e end
	select {
	case e = <-done:
	case <-time.After(2 * slow):
		t.Fatalf("%+v: it hangs", sc)
	}
	if err := s.check(e.rep, e.err); err != nil && !(sc.undoFails && onlyLeftovers(err)) {
		t.Errorf("%+v\nended with %v\n%v\nnotes %q\nhistory\n%s", sc, e.err, err, notes, history(s))
	}
	if e.err == nil {
		return "moved"
	}
	var f *fail.Fault
	if !errors.As(e.err, &f) {
		return "no fault"
	}
	if sc.onlyCut() && f.Code != fail.Connection && !s.asked() {
		t.Errorf("%+v\nis a broken link and was told as %s: %v", sc, f.Code, f)
	}
	if f.Code == fail.Lost && sc.cancel == 0 {
		t.Errorf("%+v\nnobody gave up, the destination could be reached, and yet: %v", sc, f)
	}
	if f.Code == fail.InDoubt && sc.cancel == 0 {
		t.Errorf("%+v\nnobody gave up, the destination could be asked, and yet: %v", sc, f)
	}
	return string(f.Code)
}

// onlyLeftovers: a clean-up that fails leaves something; nothing else may be wrong because of it.
func onlyLeftovers(err error) bool {
	for _, line := range strings.Split(err.Error(), "\n") {
		if !strings.HasPrefix(line, "the destination has [") {
			return false
		}
	}
	return true
}

// asked says whether the source had to ask for the outcome.
func (s *site) asked() bool { return s.dials.Load() > 1 }

func history(s *site) string {
	var b strings.Builder
	for i, ev := range s.world.History() {
		fmt.Fprintf(&b, "%3d %v\n", i, ev)
	}
	return b.String()
}
