package postcopy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrMemory is memory that cannot be read at the source any more. No other link helps.
var ErrMemory = errors.New("the memory that stayed at the source cannot be read")

// Link is one session, as a Server sees it.
type Link struct {
	// Requests waits for the stream of what the destination says; reads of it must fail when ctx ends.
	Requests func(ctx context.Context) (io.Reader, error)
	Urgent   Writer
	Bulk     []Writer
}

// Server is the source's end. It serves one link after another.
type Server struct {
	read func(vpid int32, page uint64, p []byte) error
	x    *index

	mu      sync.Mutex
	changed *sync.Cond // whatever somebody may wait for
	push    bool
	sent    bitmap // on the link under way, or arrived
	arrived bitmap
	left    uint32   // pages that have not arrived
	urgent  []uint32 // asked for and not sent
	near    []span   // neighbours of what was asked for; the last one is the newest
	cursor  uint32   // no page before it is to be sent, other than near
	win     window
	since   map[uint32]time.Time // when a chunk was pushed, by its first page
	faulted time.Time            // when the last page was asked for
	asked   int64
}

// span is pages by their numbers, the end not among them.
type span struct{ from, to uint32 }

const (
	// nearBefore and nearAfter are how many neighbours of a page that was asked for come next.
	nearBefore = 8
	nearAfter  = 56
	nearMost   = 64 // such neighbourhoods that are remembered
	// yieldFor is how long after a page was asked for what is pushed holds back: more such pages are likely.
	yieldFor = 50 * time.Millisecond
)

// NewServer serves the pages of runs. read puts what consecutive pages of a process hold into p; it is called by several
// goroutines.
func NewServer(runs []Run, read func(vpid int32, page uint64, p []byte) error) (*Server, error) {
	x, err := newIndex(runs)
	if err != nil {
		return nil, fmt.Errorf("serve pages: %w", err)
	}
	s := &Server{read: read, x: x, arrived: newBitmap(x.total), left: x.total}
	s.changed = sync.NewCond(&s.mu)
	return s, nil
}

// Pages is how many there are.
func (s *Server) Pages() int64 { return int64(s.x.total) }

// Left is how many of them have not arrived, as far as is known here.
func (s *Server) Left() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.left)
}

// Asked is how many pages were sent because a task waited for them.
func (s *Server) Asked() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Push begins to send what nobody has asked for, now and on later links.
func (s *Server) Push() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.push = true
	s.changed.Broadcast()
}

// Serve sends pages over one link until the destination, which has all of them then, has ended its stream. Any other end is an error;
// unless it is ErrMemory or ErrFormat, it is the link's, and Serve may be called with another one. It does not end the streams.
func (s *Server) Serve(ctx context.Context, l Link) error {
	s.begin()
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, s.wake)()
	g.Go(func() error { return s.hear(ctx, l.Requests) })
	g.Go(func() error { return s.answer(ctx, l.Urgent) })
	for _, w := range l.Bulk {
		g.Go(func() error { return s.pushTo(ctx, w) })
	}
	return g.Wait()
}

func (s *Server) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
}

// begin forgets what was under way on the link before.
func (s *Server) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(bitmap(nil), s.arrived...)
	s.urgent, s.cursor, s.win, s.since = nil, 0, newWindow(), map[uint32]time.Time{}
}

// hear takes in what the destination says. It ends its stream when it has everything, whatever acknowledgements were lost before.
func (s *Server) hear(ctx context.Context, open func(context.Context) (io.Reader, error)) error {
	r, err := open(ctx)
	if err != nil {
		return fmt.Errorf("wait for requests: %w", err)
	}
	in := bufio.NewReaderSize(r, 16<<10)
	for {
		ask, run, err := readWord(in)
		if errors.Is(err, io.EOF) {
			s.finish()
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive requests: %w", err)
		}
		first, ok := s.x.numbers(run)
		if !ok {
			return fmt.Errorf("%w: %d pages of process %d from %#x did not stay here", ErrFormat, run.Pages, run.VPID, run.Page)
		}
		if ask {
			s.ask(first)
		} else {
			s.ack(first, run.Pages)
		}
	}
}

// ask notes that a task waits for a page. One that is under way comes no faster by being sent again.
func (s *Server) ask(page uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faulted = time.Now()
	if !s.sent.has(page) {
		s.urgent = append(s.urgent, page)
	}
	s.near = append(s.near, span{page - min(page, nearBefore), min(page+1+nearAfter, s.x.total)})
	if len(s.near) > nearMost {
		s.near = s.near[1:]
	}
	s.changed.Broadcast()
}

// ack notes that n pages have arrived.
func (s *Server) ack(first, n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := first; i < first+n; i++ {
		if s.arrived.set(i) {
			s.left--
		}
		s.sent.set(i)
	}
	bytes := int(n) * PageSize
	s.win.acked(bytes)
	if at, ok := s.since[first]; ok {
		delete(s.since, first)
		s.win.measured(bytes, time.Since(at))
	}
	s.changed.Broadcast()
}

// finish notes that everything has arrived.
func (s *Server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = 0
	s.changed.Broadcast()
}

// await waits until next has something, and takes it; false: all has arrived, or ctx ended.
func (s *Server) await(ctx context.Context, next func() (span, bool)) (span, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.left > 0 && ctx.Err() == nil {
		if p, ok := next(); ok {
			return p, true
		}
		s.changed.Wait()
	}
	return span{}, false
}

// answer sends what was asked for.
func (s *Server) answer(ctx context.Context, w Writer) error {
	buf := newBuffer(1)
	for {
		p, ok := s.await(ctx, s.nextUrgent)
		if !ok {
			return endOf(ctx)
		}
		if err := s.send(w, p, buf); err != nil {
			return err
		}
	}
}

// pushTo sends everything else.
func (s *Server) pushTo(ctx context.Context, w Writer) error {
	buf := newBuffer(chunkPages)
	for {
		p, ok := s.await(ctx, s.nextChunk)
		if !ok {
			return endOf(ctx)
		}
		if err := s.send(w, p, buf); err != nil {
			return err
		}
	}
}

func endOf(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// newBuffer has its pages touched already: reading another process's memory into untouched ones is slow.
func newBuffer(pages int) []byte {
	b := make([]byte, pages*PageSize)
	for i := 0; i < len(b); i += PageSize {
		b[i] = 1
	}
	return b
}

// nextUrgent takes the page that was asked for first. The caller holds mu, as for the other functions that choose.
func (s *Server) nextUrgent() (span, bool) {
	for len(s.urgent) > 0 {
		page := s.urgent[0]
		s.urgent = s.urgent[1:]
		if s.sent.set(page) {
			s.asked++
			s.win.sent(PageSize)
			return span{page, page + 1}, true
		}
	}
	return span{}, false
}

// nextChunk takes pages to push, if there is room for them.
func (s *Server) nextChunk() (span, bool) {
	if !s.push || !s.win.room(chunkBytes, time.Since(s.faulted) < yieldFor) {
		return span{}, false
	}
	p, ok := s.nextNear()
	if !ok {
		if s.cursor, ok = s.sent.clear(s.cursor, s.x.total); !ok {
			s.cursor = s.x.total
			return span{}, false
		}
		p = s.chunk(s.cursor, s.x.total)
	}
	for i := p.from; i < p.to; i++ {
		s.sent.set(i)
	}
	s.win.sent(int(p.to-p.from) * PageSize)
	s.since[p.from] = time.Now()
	return p, true
}

// nextNear looks among the neighbours of what was asked for, the newest first.
func (s *Server) nextNear() (span, bool) {
	for len(s.near) > 0 {
		n := &s.near[len(s.near)-1]
		if from, ok := s.sent.clear(n.from, n.to); ok {
			return s.chunk(from, n.to), true
		}
		s.near = s.near[:len(s.near)-1]
	}
	return span{}, false
}

// chunk is the pages from one that is to be sent on that can go together: of one process, one after the other.
func (s *Server) chunk(from, limit uint32) span {
	limit = min(limit, from+min(s.x.from(from).Pages, chunkPages))
	to := from + 1
	for to < limit && !s.sent.has(to) {
		to++
	}
	return span{from, to}
}

// send reads pages and sends them.
func (s *Server) send(w Writer, p span, buf []byte) error {
	run := s.x.from(p.from)
	run.Pages = p.to - p.from
	buf = buf[:run.Pages*PageSize]
	if err := s.read(run.VPID, run.Page, buf); err != nil {
		return fmt.Errorf("%w: %w", ErrMemory, err)
	}
	err := writePages(w, run, buf)
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return fmt.Errorf("send pages: %w", err)
	}
	return nil
}
