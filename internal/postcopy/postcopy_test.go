package postcopy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"
)

// Everything comes once and right, whatever is asked for meanwhile and however often the link breaks.
func TestLinksThatBreak(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 7))
			runs := randomRuns(r)
			s, f, m := ends(t, runs, memory)
			s.Push()
			ctx := testContext(t)
			wanted := make(chan struct{})
			go func() {
				defer close(wanted)
				for range 200 {
					run := runs[r.IntN(len(runs))]
					f.Want(run.VPID, run.Page+uint64(r.IntN(int(run.Pages))))
					time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond)
				}
			}()
			cuts := rand.New(rand.NewPCG(seed, 8))
			breaks := 0
			for left := cuts.IntN(6); ; left-- {
				budget := int64(1) << 40
				if left > 0 {
					budget = int64(cuts.IntN(1 << 21))
				}
				source, destination := newTestLink(budget).run(ctx, s, f)
				if source == nil && destination == nil {
					break
				}
				if breaks++; left <= 0 {
					t.Fatalf("without a break: %v, %v", source, destination)
				}
				if source != nil && !errors.Is(source, errCut) && !errors.Is(source, context.Canceled) && !errors.Is(source, io.ErrClosedPipe) {
					t.Fatalf("source: %v", source)
				}
			}
			<-wanted
			<-f.Done()
			m.check(t, runs)
			if st := f.Stats(); breaks == 0 && st.Twice > 0 || s.Left() != 0 || f.Left() != 0 {
				t.Errorf("%d breaks, %+v, left %d and %d", breaks, st, s.Left(), f.Left())
			}
		})
	}
}

// What is asked for comes although what is pushed is stuck, and although nothing is pushed.
func TestAskedComesFirst(t *testing.T) {
	for _, push := range []bool{false, true} {
		t.Run(strconv.FormatBool(push), func(t *testing.T) {
			runs := []Run{{1, 1, 100_000}}
			s, err := NewServer(runs, memory)
			if err != nil {
				t.Fatal(err)
			}
			if push {
				s.Push()
			}
			ctx, cancel := context.WithCancel(testContext(t))
			l := newTestLink(1 << 40)
			served := make(chan error, 1)
			go func() { served <- s.Serve(ctx, l.server()) }()
			buf := newBuffer(maxRun)
			for _, page := range []uint64{99_999, 1_234, 50_001} {
				if _, err := l.talk.Write(appendAsk(nil, Run{1, page, 1})); err != nil {
					t.Fatal(err)
				}
				if err := l.talk.Flush(); err != nil {
					t.Fatal(err)
				}
				// nobody reads the streams of what is pushed
				run, content, err := readPages(l.urgent.r, buf)
				if err != nil || run != (Run{1, page, 1}) || len(content) != PageSize {
					t.Fatalf("asked for %d: %+v, %d bytes, %v", page, run, len(content), err)
				}
			}
			if s.Asked() != 3 {
				t.Errorf("%d pages were asked for", s.Asked())
			}
			cancel()
			for _, w := range l.bulk {
				_ = w.r.CloseWithError(errCut)
			}
			if err := <-served; err == nil {
				t.Error("it ended well")
			}
		})
	}
}

// Neighbours of a page that was asked for are pushed before all others, and pages that were pushed are not sent once more.
func TestNeighboursNext(t *testing.T) {
	s, err := NewServer([]Run{{1, 1, 10_000}}, memory)
	if err != nil {
		t.Fatal(err)
	}
	s.begin()
	s.push = true
	s.ask(5_000)
	if p, ok := s.nextUrgent(); !ok || p != (span{5_000, 5_001}) {
		t.Errorf("asked for 5000, got %v %v", p, ok)
	}
	s.win.flying = 0
	for _, want := range []span{{4_992, 5_000}, {5_001, 5_009}, {5_009, 5_017}} {
		if p, ok := s.nextChunk(); !ok || p != want {
			t.Errorf("pushed %v, want %v", p, want)
		}
		s.win.flying = 0
	}
	s.ask(5_004)
	if p, ok := s.nextUrgent(); ok {
		t.Errorf("%v is sent again", p)
	}
	s.near = nil
	if p, _ := s.nextChunk(); p != (span{0, 8}) {
		t.Errorf("then %v", p)
	}
}

func TestErrorsThatNoLinkHelps(t *testing.T) {
	runs := []Run{{1, 1, 100}}
	boom := errors.New("boom")
	s, f, _ := ends(t, runs, func(int32, uint64, []byte) error { return boom })
	s.Push()
	if source, _ := newTestLink(1<<40).run(testContext(t), s, f); !errors.Is(source, ErrMemory) || !errors.Is(source, boom) {
		t.Errorf("memory that cannot be read: %v", source)
	}
	s, _, _ = ends(t, runs, memory)
	s.Push()
	f, err := NewFetcher(runs, func(Run, []byte) error { return boom })
	if err != nil {
		t.Fatal(err)
	}
	if _, destination := newTestLink(1<<40).run(testContext(t), s, f); !errors.Is(destination, ErrPlace) && !errors.Is(destination, context.Canceled) {
		t.Errorf("memory that cannot be placed: %v", destination)
	}
	// the two do not mean the same pages
	s, _, _ = ends(t, []Run{{1, 1, 200}}, memory)
	s.Push()
	_, f, _ = ends(t, []Run{{2, 1, 1}}, memory)
	f.Want(2, 1)
	source, destination := newTestLink(1<<40).run(testContext(t), s, f)
	if !errors.Is(source, ErrFormat) && !errors.Is(destination, ErrFormat) {
		t.Errorf("different pages: %v, %v", source, destination)
	}
}

func TestNothingStayed(t *testing.T) {
	s, f, m := ends(t, nil, memory)
	if source, destination := newTestLink(1<<40).run(testContext(t), s, f); source != nil || destination != nil {
		t.Errorf("%v, %v", source, destination)
	}
	<-f.Done()
	m.check(t, nil)
}

func TestIndex(t *testing.T) {
	for _, runs := range [][]Run{{{1, 1, 0}}, {{1, 5, 3}, {1, 7, 1}}, {{1, maxPage - 1, 2}}, {{1, 1, 1 << 31}}, {{2, 4, 1}, {2, 4, 1}}} {
		if _, err := newIndex(runs); err == nil {
			t.Errorf("%v is an index", runs)
		}
	}
	r := rand.New(rand.NewPCG(3, 3))
	runs := randomRuns(r)
	x, err := newIndex(runs)
	if err != nil {
		t.Fatal(err)
	}
	seen := newBitmap(x.total)
	for _, run := range runs {
		for i := range uint64(run.Pages) {
			n, ok := x.number(run.VPID, run.Page+i)
			if back := x.from(n); !ok || !seen.set(n) || back.VPID != run.VPID || back.Page != run.Page+i {
				t.Fatalf("page %d of %+v is number %d, %v, which is %+v", i, run, n, ok, back)
			}
		}
	}
	if _, ok := seen.clear(0, x.total); ok {
		t.Error("a number means no page")
	}
	if _, ok := x.number(9, 1); ok {
		t.Error("a process that is in no run has a page")
	}
	y, _ := newIndex([]Run{{1, 10, 5}, {1, 15, 5}, {1, 30, 5}})
	for run, want := range map[Run]bool{{1, 10, 10}: true, {1, 12, 8}: true, {1, 12, 9}: false, {1, 19, 12}: false, {1, 9, 2}: false, {2, 10, 1}: false, {1, 30, 6}: false, {1, 10, 0}: false} {
		if _, ok := y.numbers(run); ok != want {
			t.Errorf("numbers of %+v: %v", run, ok)
		}
	}
}

func TestMalformed(t *testing.T) {
	buf := newBuffer(maxRun)
	whole := appendPages(nil, Run{1, 1, 2})
	whole = append(whole, make([]byte, 2*PageSize)...)
	for n := 1; n < len(whole); n += 1 + n/7 {
		if _, _, err := readPages(bytes.NewReader(whole[:n]), buf); !errors.Is(err, ErrFormat) {
			t.Errorf("%d bytes of a record: %v", n, err)
		}
	}
	for name, b := range map[string][]byte{
		"type": appendKey(nil, 9, Run{1, 1, 1}), "process": appendZero(nil, Run{0, 1, 1}), "page": appendZero(nil, Run{1, maxPage, 1}),
		"many": append(appendKey(nil, recPages, Run{1, 1, 1}), 1, 1), "none": append(appendKey(nil, recPages, Run{1, 1, 1}), 0, 0),
	} {
		if _, _, err := readPages(bytes.NewReader(b), buf); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := readWord(bytes.NewReader(appendKey(nil, 3, Run{1, 1, 1}))); !errors.Is(err, ErrFormat) {
		t.Errorf("word: %v", err)
	}
	if _, _, err := readPages(bytes.NewReader(nil), buf); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

// The window finds the link's rate, whatever the link, and keeps queues short.
func TestWindow(t *testing.T) {
	for _, link := range []struct {
		rate float64 // bytes a second
		trip time.Duration
	}{{12.5e6, 200 * time.Microsecond}, {12.5e6, 50 * time.Millisecond}, {1.25e9, 100 * time.Microsecond}, {125e6, 5 * time.Millisecond}} {
		w := newWindow()
		// a trip at a time: the whole window is sent, and queues for as long as it exceeds what the link holds
		for range 200 {
			queue := max(time.Duration(float64(w.size)/link.rate*float64(time.Second))-link.trip, 0)
			for range w.size / chunkBytes {
				w.measured(chunkBytes, link.trip+queue)
			}
		}
		queue := time.Duration(float64(w.size)/link.rate*float64(time.Second)) - link.trip
		full := int(link.rate * link.trip.Seconds())
		// it swings around what is right
		if w.size < min(full, mostWindow)*9/10 || queue > 3*queueGoal && w.size > leastWindow {
			t.Errorf("%+v: window %d, the link holds %d, %v in its queue", link, w.size, full, queue)
		}
	}
	w := newWindow()
	if !w.room(chunkBytes, true) || !w.room(10*leastWindow, false) {
		t.Error("nothing fits an empty window")
	}
	w.sent(chunkBytes)
	if w.room(chunkBytes, true) || !w.room(chunkBytes, false) {
		t.Error("a window that yields has room for more than a quarter, or one that does not has none")
	}
	w.sent(3 * chunkBytes)
	if w.room(chunkBytes, false) {
		t.Error("a full window has room")
	}
	w.acked(100 * chunkBytes)
	if w.flying != 0 {
		t.Errorf("%d bytes are under way", w.flying)
	}
}

func TestLatencies(t *testing.T) {
	var l latencies
	if l.quantile(0.5) != 0 {
		t.Error("a median of nothing")
	}
	for i := range 1000 {
		l.add(time.Duration(i+1) * time.Millisecond)
	}
	l.add(0)
	l.add(1000 * time.Hour)
	for share, want := range map[float64]time.Duration{0.5: 500 * time.Millisecond, 0.99: 990 * time.Millisecond} {
		if got := l.quantile(share); got < want*9/10 || got > want*11/10 {
			t.Errorf("quantile %v is %v, want about %v", share, got, want)
		}
	}
}
