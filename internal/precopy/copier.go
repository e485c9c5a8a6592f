package precopy

import (
	"context"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate/internal/pace"
	"migrate/internal/pages"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// Stream takes one worker's part of a round to the destination.
type Stream interface {
	io.Writer
	Close() error
	Abandon()    // instead of Close, when the part is not complete
	Wire() int64 // bytes that went over the link, once closed
	// SumBy says what computes the hash of the part; it is called before anything is written
	SumBy(sum func() [32]byte)
}

// Options of a Copier. Table, Workers, Open and Stored are required.
type Options struct {
	Tracker track.Tracker // the caller's to close; nil: shared memory alone is copied
	Table   *pages.Table  // what the destination holds
	Workers int           // that read and encode side by side
	Open    func(ctx context.Context, m Part) (Stream, error)
	Stored  func(ctx context.Context, round int) error // returns when the destination has stored the round
	// Shared finds the memory that processes have in common, once for each round; what it returned before is void. Nil: there is none.
	Shared func() ([]*shmem.Object, error)
	// Pace bounds what is done while the container runs; nil: nothing does.
	Pace     *pace.Pacer
	By       time.Time               // when all memory should have been copied once; Pace gives way to that. Zero: never
	Progress func(done, total int64) // bytes of memory in the round under way
}

// Part names a stream of a round.
type Part struct {
	Round, Streams int
	Key            pages.Key // what the hash is computed with
}

// Copier copies memory. Its methods are called one after another.
type Copier struct {
	o       Options
	seq     int // rounds on the wire
	began   time.Time
	scanned time.Time
	rounds  []Round
	slowed  int // what Throttled was told
	wire    int64
	shared  map[int32]bool // spaces of shared memory of which the destination may have pages
}

// New makes a Copier.
func New(o Options) *Copier {
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	return &Copier{o: o, began: time.Now(), shared: map[int32]bool{}}
}

// Round looks once and sends what was written. It returns when the destination has stored it.
func (c *Copier) Round(ctx context.Context) (report.Round, error) {
	scan := nothing
	if c.o.Tracker != nil {
		scan = c.o.Tracker.Scan
	}
	return c.round(ctx, scan, c.o.Pace)
}

// nothing is a scan that finds no private memory.
func nothing(context.Context) ([]track.Proc, error) { return nil, nil }

// Throttled says that the container is slowed down from now on, by so many percent.
func (c *Copier) Throttled(percent int) { c.slowed = percent }

// Hurry makes rounds from now on go on without a bound on what they take.
func (c *Copier) Hurry() { c.o.Pace = nil }

// FrozenRound is Round for a container that stands still: it is not spared. Without private it looks at shared memory alone.
func (c *Copier) FrozenRound(ctx context.Context, private bool) (report.Round, error) {
	scan := nothing
	if private && c.o.Tracker != nil {
		scan = c.o.Tracker.Still
	}
	r, err := c.round(ctx, scan, nil)
	r.Frozen = true
	return r, err
}

func (c *Copier) round(ctx context.Context, scan func(context.Context) ([]track.Proc, error), spare *pace.Pacer) (report.Round, error) {
	start := time.Now()
	before := c.o.Table.Stats()
	wire, held := c.wire, spare.Held()
	procs, err := scan(ctx)
	if err != nil {
		return report.Round{}, fmt.Errorf("look for written memory: %w", err)
	}
	r := Round{Throttle: c.slowed}
	if !c.scanned.IsZero() {
		r.Apart = start.Sub(c.scanned)
	}
	c.scanned = start
	if err := c.drop(ctx, procs); err != nil {
		return report.Round{}, err
	}
	jobs, looked, err := c.sharedJobs()
	if err != nil {
		return report.Round{}, err
	}
	if r.Pages, err = c.send(ctx, append(jobsOf(procs), jobs...), spare, false); err != nil {
		return report.Round{}, err
	}
	r.Shared = looked
	r.Took, r.Held = time.Since(start), spare.Held()-held
	c.rounds = append(c.rounds, r)
	return c.describe(r, before, wire), nil
}

// Decide says whether another round is worth it, and notes that in rep.
func (c *Copier) Decide(l Limits, rep *report.Round) Decision {
	d := Next(c.rounds, time.Since(c.began), l)
	rep.RestPages, rep.RestMS, rep.Decision = d.Rest, report.MS(d.Needs), string(d.Reason)
	return d
}

func (c *Copier) describe(r Round, before pages.Stats, wire int64) report.Round {
	now := c.o.Table.Stats()
	return report.Round{
		Pages: r.Pages, Shared: r.Shared, MS: report.MS(r.Took), HeldMS: report.MS(r.Held), Throttle: r.Throttle, Wire: c.wire - wire,
		Zero: int64(now.Zero - before.Zero), Unchanged: int64(now.Unchanged - before.Unchanged),
		Same: int64(now.Duplicates - before.Duplicates), Delta: int64(now.Deltas - before.Deltas),
	}
}

// drop makes the destination forget what is void. It is a round of its own, since the parts of a round are stored in any order.
func (c *Copier) drop(ctx context.Context, procs []track.Proc) error {
	void := false
	for _, p := range procs {
		void = void || p.Reset || len(p.Void) > 0
	}
	if !void || c.seq == 0 {
		return nil
	}
	return c.parts(ctx, 1, func(_ context.Context, _ int, e *pages.Encoder) error {
		for _, p := range procs {
			if p.Reset {
				if err := e.Drop(int32(p.VPid), 0, 0); err != nil {
					return err
				}
			}
			for _, v := range p.Void {
				if err := e.Drop(int32(p.VPid), v.Start/track.PageSize, (v.End-v.Start)/track.PageSize); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// send copies what the jobs name, and returns how many pages they are, without those of shared memory that the destination had already: jobs
// name what there is of shared memory, not what was written. With strict none of them may be gone.
func (c *Copier) send(ctx context.Context, jobs []job, spare *pace.Pacer, strict bool) (int64, error) {
	var total int64
	for _, j := range jobs {
		total += j.bytes()
	}
	if len(jobs) == 0 {
		return 0, nil
	}
	queue := make(chan job, len(jobs))
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	spare.Goal(total, c.o.By)
	done := &progress{total: total, tell: c.o.Progress}
	err := c.parts(ctx, min(c.o.Workers, len(jobs)), func(ctx context.Context, _ int, e *pages.Encoder) error {
		w := worker{e: e, tracker: c.o.Tracker, buf: track.NewBuffer(batch), pace: spare, done: done, strict: strict}
		return w.run(ctx, queue)
	})
	return total/track.PageSize - done.same.Load(), err
}

// parts runs a round of n streams side by side and waits until it is stored.
func (c *Copier) parts(ctx context.Context, n int, write func(ctx context.Context, i int, e *pages.Encoder) error) error {
	c.seq++
	c.o.Table.BeginRound()
	sent := make([]int64, n)
	g, gctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error {
			s, err := c.o.Open(ctx, Part{Round: c.seq, Streams: n, Key: c.o.Table.Key()})
			if err != nil {
				return fmt.Errorf("send memory: %w", err)
			}
			e := pages.NewEncoder(c.o.Table, s)
			s.SumBy(e.Sum)
			if err := write(gctx, i, e); err != nil {
				s.Abandon()
				return err
			}
			if err := e.Close(); err != nil {
				s.Abandon()
				return fmt.Errorf("send memory: %w", err)
			}
			if err := s.Close(); err != nil {
				return fmt.Errorf("send memory: %w", err)
			}
			sent[i] = s.Wire()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, n := range sent {
		c.wire += n
	}
	return c.o.Stored(ctx, c.seq)
}
