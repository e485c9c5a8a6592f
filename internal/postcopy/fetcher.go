package postcopy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrPlace is pages that cannot be put in place at the destination. No other link helps.
var ErrPlace = errors.New("pages that came cannot be put in place")

// Stats is what it took to fetch pages.
type Stats struct {
	Pages  int64 // all
	Asked  int64 // of them, those for which a task waited
	Twice  int64 // came more than once
	Median time.Duration
	P99    time.Duration // both from asking for a page until it was put in place
}

// Fetcher is the destination's end. It uses one link after another.
type Fetcher struct {
	x *index
	// place puts what came where it belongs; content is nil for zeros. Each page comes once; several goroutines call it.
	place func(r Run, content []byte) error
	done  chan struct{}

	mu      sync.Mutex
	changed *sync.Cond
	came    bitmap               // placed, or about to be
	left    uint32               // pages that are not placed
	waiting map[uint32]time.Time // asked for and not placed, since when
	asks    []uint32             // to be told on the link under way
	acks    []Run                // likewise
	stats   Stats
	took    latencies
}

// NewFetcher fetches the pages of runs. place puts consecutive pages where they belong, nil for zeros; it is called once for each
// page, by several goroutines.
func NewFetcher(runs []Run, place func(r Run, content []byte) error) (*Fetcher, error) {
	x, err := newIndex(runs)
	if err != nil {
		return nil, fmt.Errorf("fetch pages: %w", err)
	}
	f := &Fetcher{x: x, place: place, done: make(chan struct{}), came: newBitmap(x.total), left: x.total, waiting: map[uint32]time.Time{}}
	f.changed = sync.NewCond(&f.mu)
	if x.total == 0 {
		close(f.done)
	}
	return f, nil
}

// Pages is how many there are.
func (f *Fetcher) Pages() int64 { return int64(f.x.total) }

// Done is closed when all pages are in place.
func (f *Fetcher) Done() <-chan struct{} { return f.done }

// Left is how many pages are not in place.
func (f *Fetcher) Left() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int64(f.left)
}

// Stats counts up to now.
func (f *Fetcher) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Pages, s.Median, s.P99 = int64(f.x.total), f.took.quantile(0.5), f.took.quantile(0.99)
	return s
}

// Want asks for a page that a task waits for. One that has come, or does not have to, is none of the source's business.
func (f *Fetcher) Want(vpid int32, page uint64) {
	n, ok := f.x.number(vpid, page)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || f.came.has(n) {
		return
	}
	if _, asked := f.waiting[n]; asked {
		return
	}
	f.waiting[n] = time.Now()
	f.stats.Asked++
	f.asks = append(f.asks, n)
	f.changed.Broadcast()
}

// Talk tells the source over one link what is wanted and what has come, until all is in place and told, or ctx ends. What was asked
// for on the link before is asked for again. It does not end the stream.
func (f *Fetcher) Talk(ctx context.Context, w Writer) error {
	defer context.AfterFunc(ctx, f.wake)()
	f.again()
	for {
		words, last := f.words(ctx)
		if len(words) > 0 {
			_, err := w.Write(words)
			if err == nil {
				err = w.Flush()
			}
			if err != nil {
				return fmt.Errorf("ask for pages: %w", err)
			}
		}
		if last {
			return endOf(ctx)
		}
	}
}

func (f *Fetcher) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changed.Broadcast()
}

// again asks anew for everything that is waited for.
func (f *Fetcher) again() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asks = f.asks[:0]
	for n := range f.waiting {
		f.asks = append(f.asks, n)
	}
}

// words waits for something to be told, and encodes it.
func (f *Fetcher) words(ctx context.Context) (b []byte, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ctx.Err() == nil && f.left > 0 && len(f.asks)+len(f.acks) == 0 {
		f.changed.Wait()
	}
	for _, n := range f.asks {
		if !f.came.has(n) {
			b = appendAsk(b, f.x.from(n))
		}
	}
	for _, r := range f.acks {
		b = appendAck(b, r)
	}
	f.asks, f.acks = f.asks[:0], f.acks[:0]
	return b, ctx.Err() != nil || f.left == 0
}

// Take takes in a stream of pages to its end. Unless the error is ErrPlace or ErrFormat, it is the link's.
func (f *Fetcher) Take(r io.Reader) error {
	in := bufio.NewReaderSize(r, chunkBytes)
	buf := newBuffer(maxRun)
	for {
		run, content, err := readPages(in, buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive pages: %w", err)
		}
		if err := f.take(run, content); err != nil {
			return err
		}
	}
}

// take puts those pages of a record in place that had not come before.
func (f *Fetcher) take(run Run, content []byte) error {
	first, ok := f.x.numbers(run)
	if !ok {
		return fmt.Errorf("%w: %d pages of process %d from %#x were not to come", ErrFormat, run.Pages, run.VPID, run.Page)
	}
	for _, p := range f.claim(first, run.Pages) {
		part := Run{run.VPID, run.Page + uint64(p.from-first), p.to - p.from}
		var body []byte
		if content != nil {
			body = content[(p.from-first)*PageSize : (p.to-first)*PageSize]
		}
		if err := f.place(part, body); err != nil {
			return fmt.Errorf("%w: %w", ErrPlace, err)
		}
		f.placed(p)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acks = append(f.acks, run)
	f.changed.Broadcast()
	return nil
}

// claim lists those of n pages that come for the first time.
func (f *Fetcher) claim(first, n uint32) []span {
	f.mu.Lock()
	defer f.mu.Unlock()
	var news []span
	for i := first; i < first+n; i++ {
		if !f.came.set(i) {
			f.stats.Twice++
			continue
		}
		if k := len(news); k > 0 && news[k-1].to == i {
			news[k-1].to++
		} else {
			news = append(news, span{i, i + 1})
		}
	}
	return news
}

// placed notes that pages are in place.
func (f *Fetcher) placed(p span) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for i := p.from; i < p.to && len(f.waiting) > 0; i++ {
		if since, ok := f.waiting[i]; ok {
			f.took.add(now.Sub(since))
			delete(f.waiting, i)
		}
	}
	if f.left -= p.to - p.from; f.left == 0 {
		close(f.done)
	}
}
