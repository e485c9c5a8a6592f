package migrate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate/internal/criu"
	"migrate/internal/criu/pagemap"
	"migrate/internal/fail"
	"migrate/internal/memcheck"
	"migrate/internal/pace"
	"migrate/internal/pages"
	"migrate/internal/precopy"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// MemoryOptions say how memory is copied while the container runs.
type MemoryOptions struct {
	Mode        string        // one of proto's modes; "" is proto.ModePrecopy
	Tracker     string        // kind of tracker, "" or "auto" for the best that the host has
	MaxDowntime time.Duration // rounds go on until the rest fits it
	MaxRounds   int
	MaxTotal    time.Duration // of all rounds
	Share       int           // percent of a CPU for each stream while the container runs, or ShareAuto, or ShareAll
	Throttle    bool          // slow the container down when rounds no longer shrink
	Eager       bool          // all memory is in place before the container is resumed
	Verify      bool          // every page is compared before the container is resumed
	Recover     time.Duration // how long the link may stay broken while memory is still at the source
}

// The defaults of MemoryOptions.
const (
	DefaultMaxDowntime = 300 * time.Millisecond
	DefaultMaxRounds   = 30
	DefaultMaxTotal    = 10 * time.Minute
	DefaultRecover     = 10 * time.Minute
)

// fixedDowntime is what freezing, dumping everything but memory, restoring and resuming take, whatever the memory.
const fixedDowntime = 200 * time.Millisecond

func (o *MemoryOptions) setDefaults() {
	if o.Mode == "" {
		o.Mode = proto.ModePrecopy
	}
	if o.MaxDowntime == 0 {
		o.MaxDowntime = DefaultMaxDowntime
	}
	if o.MaxRounds == 0 {
		o.MaxRounds = DefaultMaxRounds
	}
	if o.MaxTotal == 0 {
		o.MaxTotal = DefaultMaxTotal
	}
	if o.Recover == 0 {
		o.Recover = DefaultRecover
	}
}

// copies says whether memory is copied in rounds, and inPlace whether the dump leaves it in the processes.
func (s *sender) copies() bool  { return proto.Rounds(s.offer.Mode) }
func (s *sender) inPlace() bool { return proto.InPlace(s.offer.Mode) }

// chooseMode falls back to copying memory while the container stands still where a dump that leaves memory in place cannot hold
// that much of it. There is nothing to fall back to for memory that is to stay.
func (s *sender) chooseMode() error {
	s.offer.Mode, s.offer.Eager, s.offer.Verify = s.opt.Memory.Mode, s.opt.Memory.Eager, s.opt.Memory.Verify
	if limit := criu.LazyLimit(); s.inPlace() && s.offer.Memory > limit {
		if s.stays() {
			return &fail.Fault{Code: fail.Unsupported, What: "leave the container's memory in place", Where: "source, phase offer",
				Why: fmt.Sprintf("it has %d MiB, and the limit of open files lets CRIU hold %d MiB in place", s.offer.Memory>>20, limit>>20), Remedy: "choose --mode auto"}
		}
		s.offer.Mode = proto.ModeStop
		s.clock.Note(fmt.Sprintf("the container has %d MiB of memory, and the limit of open files lets CRIU hold %d MiB in place: "+
			"memory is copied while the container stands still", s.offer.Memory>>20, limit>>20))
	}
	s.rep.Mode = s.offer.Mode
	s.warn()
	return nil
}

// startTracking begins to follow what the container writes.
func (s *sender) startTracking(ctx context.Context, pacer *pace.Pacer) error {
	t, err := track.Open(ctx, track.Options{Pids: s.pids, Kind: s.opt.Memory.Tracker, Log: s.log})
	if err != nil {
		return fmt.Errorf("follow the container's memory: %w", err)
	}
	s.push("let go of the container's memory", func(context.Context) error { return t.Close() })
	s.tracker, s.rep.Tracker = t, t.Name()
	return s.makeCopier(t, pacer)
}

// makeCopier makes what copies memory: private memory that a tracker follows, unless that is nil, and shared memory.
func (s *sender) makeCopier(t track.Tracker, pacer *pace.Pacer) error {
	if err := s.followShared(); err != nil {
		return err
	}
	s.copier = precopy.New(precopy.Options{
		Tracker: t, Table: pages.NewTable(s.ready.Store, pages.DefaultDeltaCache), Workers: s.sess.Lanes(), Pace: pacer, Shared: s.findShared,
		By: time.Now().Add(s.opt.Memory.MaxTotal / 2), Open: s.openMemory, Stored: s.awaitStored, Progress: s.clock.Progress,
	})
	return nil
}

// pids are the container's processes at this moment.
func (s *sender) pids() ([]int, error) {
	pids, err := s.freezer().Tasks()
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		return nil, errors.New("the container has no processes")
	}
	return pids, nil
}

// precopy sends memory in rounds while the container runs.
func (s *sender) precopy(ctx context.Context) error {
	if !s.copies() {
		return s.copyShared(ctx)
	}
	s.clock.Enter(report.Precopy)
	if err := s.memoryRounds(ctx); err != nil {
		return err
	}
	// files were written as well meanwhile
	return s.syncFiles(ctx)
}

// memoryRounds sends memory until the rest fits the downtime, or rounds gain nothing any more.
func (s *sender) memoryRounds(ctx context.Context) error {
	pacer, end := s.newPacer()
	defer end()
	if err := s.startTracking(ctx, pacer); err != nil {
		return err
	}
	defer s.hurry()
	s.throttler = s.newThrottler()
	limits := precopy.Limits{
		Downtime: s.opt.Memory.MaxDowntime, Fixed: fixedDowntime, Rounds: s.opt.Memory.MaxRounds, Total: s.opt.Memory.MaxTotal,
		Yields: s.opt.Memory.Share == ShareAuto,
	}
	if s.stays() {
		limits.Patience = 1 // what no round gets done with may stay
	}
	for {
		r, err := s.copier.Round(ctx)
		if err != nil {
			return err
		}
		s.throttler.measure()
		limits.Throttles = s.throttler.more()
		d := s.copier.Decide(limits, &r)
		s.rep.Rounds = append(s.rep.Rounds, r)
		s.log.Debug("a round of memory", "round", len(s.rep.Rounds), "next", d.Reason, "rest", d.Rest)
		if !d.More() {
			return nil
		}
		if err := s.adapt(ctx, d.Reason); err != nil {
			return err
		}
		if err := pause(ctx, roundPause); err != nil {
			return err
		}
	}
}

// adapt does what the next round has to begin with.
func (s *sender) adapt(ctx context.Context, why precopy.Reason) error {
	switch why {
	case precopy.Hurry:
		s.hurry()
	case precopy.Throttle:
		if err := s.throttler.step(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			if err := s.throttler.end(); err != nil {
				return err
			}
			s.noThrottling(err)
			s.throttler = nil
		}
		s.copier.Throttled(s.throttler.percent())
	}
	return nil
}

// roundPause lies between two rounds: the first write to each page after a look costs the container a fault.
const roundPause = 20 * time.Millisecond

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lastRound sends what was written while the dump was prepared. The container still runs.
func (s *sender) lastRound(ctx context.Context) error {
	if !s.copies() && !s.sharing() {
		return nil
	}
	r, err := s.copier.Round(ctx)
	if err != nil {
		return err
	}
	r.Decision = "last"
	s.rep.Rounds = append(s.rep.Rounds, r)
	s.busy = r.Pages > busyPages && !s.stays()
	return nil
}

// busyPages is how many pages the last round of a container has to have that is worth a look while CRIU dumps. A look goes through all
// page tables, which CRIU does at the same time and waits for: below, it is quicker to send what is left when the dump is held.
const busyPages = 16 << 10

// frozenMemory sends what was written until the freeze, while CRIU dumps the rest. Of shared memory there is more to do than that, since it has
// to be looked at from end to end; but that looks at no page table, and is done for good then.
func (s *sender) frozenMemory(ctx context.Context) error {
	if !s.busy && !s.sharing() {
		// some may have come since the last round
		if objects, err := s.findShared(); err != nil || len(objects) == 0 {
			return err
		}
	}
	r, err := s.copier.FrozenRound(ctx, s.busy)
	if err != nil {
		return err
	}
	s.rep.Rounds = append(s.rep.Rounds, r)
	return nil
}

// restOfMemory sends what the dump names as memory and the destination does not hold: what CRIU itself made the processes
// write, and what could not be followed. The dump is held.
func (s *sender) restOfMemory(ctx context.Context) error {
	if s.stays() {
		return s.leaveMemory(ctx)
	}
	spaces, err := s.dumped(pagemap.Entry.InPlace)
	if err != nil {
		return err
	}
	shared, err := s.dumpedShared()
	if err != nil {
		return err
	}
	r, err := s.copier.Rest(ctx, spaces, shared)
	if err != nil {
		return err
	}
	s.rep.Rounds = append(s.rep.Rounds, r)
	if s.offer.Verify {
		return s.sendCheck(ctx, shared)
	}
	return nil
}

// dumped reads from the image set where the private pages are that the dump has left in place, or that it holds.
func (s *sender) dumped(want func(pagemap.Entry) bool) ([]precopy.Space, error) {
	maps, err := pagemap.List(s.stage.Images())
	if err != nil {
		return nil, fmt.Errorf("read the image set: %w", err)
	}
	tasks, err := s.freezer().Tasks()
	if err != nil {
		return nil, err
	}
	pids := map[int]int{}
	for _, pid := range tasks {
		if v, err := track.VPid(pid); err == nil {
			pids[v] = pid
		}
	}
	var spaces []precopy.Space
	for _, m := range maps {
		if m.Shmem {
			continue
		}
		f, err := pagemap.ReadFile(m.Path)
		if err != nil {
			return nil, fmt.Errorf("read the image set: %w", err)
		}
		sp := precopy.Space{Pid: pids[m.ID], VPid: m.ID}
		for _, e := range f.Entries {
			if want(e) {
				sp.Ranges = append(sp.Ranges, track.Range{Start: e.Addr, End: e.Addr + e.Pages*track.PageSize})
			}
		}
		spaces = append(spaces, sp)
	}
	return spaces, nil
}

// openMemory begins a stream of a round.
func (s *sender) openMemory(ctx context.Context, p precopy.Part) (precopy.Stream, error) {
	w, err := s.open(ctx, proto.StreamMemory, proto.MemoryMeta{Round: p.Round, Streams: p.Streams, Key: p.Key[:]}, s.opt.Codec)
	if err != nil {
		return nil, err
	}
	return &memoryStream{sealedWriter{w, s.account(proto.StreamMemory, &s.rep.Memory)}}, nil
}

// memoryStream is a stream of memory; all of them are part of the seal.
type memoryStream struct{ sealedWriter }

func (w *memoryStream) Abandon() { w.Reset(resetFailed) }

func (w *memoryStream) Wire() int64 { return int64(w.Stats().Wire) }

var _ precopy.Stream = (*memoryStream)(nil)

// awaitStored waits for the destination's word that it has a round.
func (s *sender) awaitStored(ctx context.Context, round int) error {
	var msg proto.StoredMsg
	if err := s.inbox.Recv(ctx, proto.Stored, &msg); err != nil {
		return err
	}
	if msg.Round != round {
		return fmt.Errorf("protocol error: round %d is stored, round %d was sent", msg.Round, round)
	}
	return nil
}

// sendCheck sends hashes of all private pages, and of all that are shared, for the destination to compare with what it restored.
func (s *sender) sendCheck(ctx context.Context, shared []precopy.Shared) error {
	spaces, err := s.dumped(func(e pagemap.Entry) bool { return e.InPlace() || e.Held() })
	if err != nil {
		return err
	}
	kernels, err := criu.KernelWrites(s.stage.Images())
	if err != nil {
		return fmt.Errorf("check memory: %w", err)
	}
	var list []memcheck.Space
	for _, sp := range spaces {
		ranges, err := track.WithoutKernels(sp.Pid, sp.Ranges)
		if err != nil {
			return fmt.Errorf("check memory: %w", err)
		}
		list = append(list, memcheck.Space{ID: int32(sp.VPid), Memory: memcheck.Without{Memory: memcheck.Process(sp.Pid), Bytes: kernels[sp.VPid]}, Ranges: ranges})
	}
	for _, sh := range shared {
		if sh.Object.Handle.VPid > 0 { // else the destination has no way to it
			list = append(list, memcheck.Space{ID: shmem.Space(sh.Object.ID), Memory: memcheck.Shared{Object: sh.Object}, Ranges: sh.Ranges})
		}
	}
	w, err := s.open(ctx, proto.StreamCheck, struct{}{}, s.opt.Codec)
	if err != nil {
		return err
	}
	if _, err := memcheck.Write(w, list); err != nil {
		w.Reset(resetFailed)
		return err
	}
	return (&sealedWriter{w, s.account(proto.StreamCheck, &s.rep.Memory)}).Close()
}
