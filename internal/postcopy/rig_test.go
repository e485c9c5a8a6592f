package postcopy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const patience = 60 * time.Second

// memory is what a page of the frozen processes holds: every fifth page is zeros.
func memory(vpid int32, page uint64, p []byte) error {
	for ; len(p) > 0; page, p = page+1, p[PageSize:] {
		clear(p[:PageSize])
		if page%5 == 0 {
			continue
		}
		for i := 0; i < PageSize; i += 16 {
			binary.LittleEndian.PutUint64(p[i:], page)
			binary.LittleEndian.PutUint32(p[i+8:], uint32(vpid))
		}
	}
	return nil
}

// place is the memory at the destination.
type place struct {
	mu    sync.Mutex
	pages map[[2]uint64]bool
	bad   error
}

func (m *place) put(r Run, content []byte) error {
	want := make([]byte, r.Pages*PageSize)
	_ = memory(r.VPID, r.Page, want)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range uint64(r.Pages) {
		key := [2]uint64{uint64(r.VPID), r.Page + i}
		if m.pages[key] {
			m.bad = fmt.Errorf("page %v came twice", key)
		}
		m.pages[key] = true
	}
	if content == nil {
		content = make([]byte, len(want))
	}
	if string(content) != string(want) {
		m.bad = fmt.Errorf("%+v is not what it was", r)
	}
	return nil
}

func (m *place) check(t *testing.T, runs []Run) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var n int
	for _, r := range runs {
		n += int(r.Pages)
	}
	if m.bad != nil || len(m.pages) != n {
		t.Errorf("%d of %d pages came: %v", len(m.pages), n, m.bad)
	}
}

// randomRuns are some of several processes, not in order.
func randomRuns(r *rand.Rand) []Run {
	var runs []Run
	for vpid := int32(1); vpid <= 3; vpid++ {
		page := uint64(r.IntN(1000))
		for range 1 + r.IntN(20) {
			n := uint32(1 + r.IntN(60))
			runs = append(runs, Run{vpid, page, n})
			page += uint64(n) + uint64(r.IntN(2)*r.IntN(1000)) // some follow each other
		}
	}
	r.Shuffle(len(runs), func(i, j int) { runs[i], runs[j] = runs[j], runs[i] })
	return runs
}

// errCut is a link that broke.
var errCut = errors.New("the link broke")

// wire is a stream of a link that breaks when budget bytes have gone over all of its streams.
type wire struct {
	*bufio.Writer
	r *io.PipeReader
	w *io.PipeWriter
}

type cutter struct {
	io.Writer
	budget *atomic.Int64
	cut    func()
}

func (c cutter) Write(p []byte) (int, error) {
	if c.budget.Add(-int64(len(p))) < 0 {
		c.cut()
		return 0, errCut
	}
	return c.Writer.Write(p)
}

// testLink connects the two ends once.
type testLink struct {
	talk, urgent wire
	bulk         []wire
}

func newTestLink(budget int64) *testLink {
	var left atomic.Int64
	left.Store(budget)
	l := &testLink{bulk: make([]wire, 2)}
	all := []*wire{&l.talk, &l.urgent, &l.bulk[0], &l.bulk[1]}
	cut := func() {
		for _, w := range all {
			_ = w.r.CloseWithError(errCut) // of both ends of a pipe the first one that is closed counts
			_ = w.w.CloseWithError(errCut)
		}
	}
	for _, w := range all {
		w.r, w.w = io.Pipe()
		w.Writer = bufio.NewWriterSize(cutter{w.w, &left, cut}, 64<<10)
	}
	return l
}

func (l *testLink) server() Link {
	return Link{
		Requests: func(ctx context.Context) (io.Reader, error) {
			context.AfterFunc(ctx, func() { _ = l.talk.r.CloseWithError(context.Cause(ctx)) })
			return l.talk.r, nil
		},
		Urgent: l.urgent, Bulk: []Writer{l.bulk[0], l.bulk[1]},
	}
}

// run carries everything that both ends have over one link, and returns their errors.
func (l *testLink) run(ctx context.Context, s *Server, f *Fetcher) (source, destination error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 4)
	for _, w := range []wire{l.urgent, l.bulk[0], l.bulk[1]} {
		wg.Go(func() {
			if err := f.Take(w.r); err != nil {
				_ = w.r.CloseWithError(err)
				errs <- err
				cancel()
			}
		})
	}
	wg.Go(func() {
		if err := f.Talk(ctx, l.talk); err != nil {
			_ = l.talk.w.CloseWithError(err)
			errs <- err
			return
		}
		_ = l.talk.w.Close()
	})
	source = s.Serve(ctx, l.server())
	for _, w := range []wire{l.urgent, l.bulk[0], l.bulk[1]} {
		if source != nil {
			_ = w.w.CloseWithError(source)
		} else {
			_ = w.w.Close()
		}
	}
	if source != nil {
		cancel()
	}
	wg.Wait()
	select {
	case destination = <-errs:
	default:
	}
	return source, destination
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func ends(t *testing.T, runs []Run, read func(int32, uint64, []byte) error) (*Server, *Fetcher, *place) {
	t.Helper()
	m := &place{pages: map[[2]uint64]bool{}}
	s, err := NewServer(runs, read)
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFetcher(runs, m.put)
	if err != nil {
		t.Fatal(err)
	}
	return s, f, m
}
