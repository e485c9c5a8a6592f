package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"migrate/internal/criu"
	"migrate/internal/criu/pagemap"
	"migrate/internal/fail"
	"migrate/internal/filler"
	"migrate/internal/memcheck"
	"migrate/internal/pager"
	"migrate/internal/pages"
	"migrate/internal/postcopy"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/track"
	"migrate/transfer"
)

// memory takes in the rounds of a container's memory and brings it into the restored processes.
type memory struct {
	store *pages.Store
	pager Pager // nil when all memory is in place before the container is resumed

	shared  map[uint64]proto.Shared // what the source says of shared memory
	windows []shmem.Window          // through which it is reached
	fills   []sharedFill            // what is to be put into it
	use     slotUse                 // of the store
	filler  *filler.Filler          // that does it; nil: there is nothing to do

	// The round under way, under the lock of streams.
	round   int
	streams int // that it consists of
	done    int // of them, stored
	taken   int // of them, begun
}

// inPlace says whether the dump has left memory in the source's processes, from where it comes apart from the image set.
func (r *receiver) inPlace() bool { return proto.InPlace(r.offer.Mode) }

// lazy says whether the container is resumed before its memory is in place.
func (r *receiver) lazy() bool { return r.inPlace() && !r.offer.Eager }

// prepareMemory makes the store, and the pager that will answer for it.
func (r *receiver) prepareMemory(ctx context.Context) (err error) {
	if !r.inPlace() {
		return nil
	}
	m := &memory{}
	if m.store, err = pages.NewStore(r.storePath(), r.stageSize()); err != nil {
		return fmt.Errorf("make the page store: %w", err)
	}
	r.push("close the page store", func(context.Context) error { return m.store.Close() })
	r.memory = m
	if !r.lazy() {
		return nil
	}
	start := r.opt.StartPager
	if start == nil {
		start = func(ctx context.Context, job pager.Job) (Pager, error) { return startPager(ctx, r.opt.Pager, job) }
	}
	m.pager, err = start(ctx, pager.Job{Work: r.stage.Work(), Store: r.storePath(), Record: r.fillRecord()})
	if err != nil {
		return fmt.Errorf("start the pager: %w", err)
	}
	r.push("end the pager", func(context.Context) error {
		m.pager.Abort()
		return removeFile(r.fillRecord()) // of a container that never ran here; the source is told why
	})
	return nil
}

func (r *receiver) storePath() string { return filepath.Join(r.stage.Dir(), "memory") }
func (r *receiver) checkPath() string { return filepath.Join(r.stage.Dir(), "check") }

// fillRecord is where the pager says how the fill ended; it outlives the stage and the agent.
func (r *receiver) fillRecord() string { return filepath.Join(r.opt.LogDir, r.offer.ID+fillSuffix) }

const fillSuffix = "-fill.json"

// takeMemory stores one stream of a round, and says so when the round is complete.
func (s *streams) takeMemory(ctx context.Context, st *transfer.StreamReader) error {
	var meta proto.MemoryMeta
	if err := json.Unmarshal(st.Meta(), &meta); err != nil {
		return fmt.Errorf("decode round of memory: %w", err)
	}
	key, err := pages.KeyOf(meta.Key)
	if err != nil {
		return fmt.Errorf("protocol error: %w", err)
	}
	var m *memory
	if err := s.claim("memory", func() bool {
		if !s.rounds || s.isSealed || s.r.memory == nil { // it is there once rounds may come
			return false
		}
		m = s.r.memory
		return m.mayTake(meta)
	}, func() { m.taken++ }); err != nil {
		return err
	}
	applier := m.store.Applier(key)
	st.SumBy(applier.Sum)
	if err := applier.Apply(st); err != nil {
		return fmt.Errorf("store memory: %w", err)
	}
	s.add(st)
	stored := false
	s.update(func() { m.done++; stored = m.done == m.streams })
	if !stored {
		return nil
	}
	return proto.Send(ctx, s.r.sess, proto.Stored, proto.StoredMsg{Round: meta.Round})
}

// mayTake says whether a stream belongs to the round under way, or begins the next one.
func (m *memory) mayTake(meta proto.MemoryMeta) bool {
	if meta.Streams < 1 || meta.Streams > proto.MaxMemoryStreams {
		return false
	}
	if m.done == m.streams && meta.Round == m.round+1 {
		m.round, m.streams, m.done, m.taken = meta.Round, meta.Streams, 0, 0
	}
	return meta.Round == m.round && meta.Streams == m.streams && m.taken < m.streams
}

// whole says whether no round is half there.
func (m *memory) whole() bool { return m == nil || m.done == m.streams }

// takeCheck keeps the page check until there is something to compare with.
func (s *streams) takeCheck(st *transfer.StreamReader) error {
	check := false
	if err := s.claim("page check", func() bool { return s.rounds && !s.isSealed && s.r.offer.Verify && !s.checked }, func() { s.checked, check = true, true }); err != nil || !check {
		return err
	}
	f, err := os.OpenFile(s.r.checkPath(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("keep the page check: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(f, st); err != nil {
		return fmt.Errorf("keep the page check: %w", err)
	}
	s.add(st)
	return nil
}

// placeMemory makes what was stored ready for the restore: the pager is told where every page is, or the image set is
// completed with them. remote is how many pages stay at the source, as it says.
func (r *receiver) placeMemory(ctx context.Context, remote int64) error {
	if !r.inPlace() {
		return nil
	}
	began := time.Now()
	defer r.step("place", began)
	if !r.memory.whole() {
		return errors.New("protocol error: sealed in the middle of a round of memory")
	}
	maps, err := pagemap.List(r.stage.Images())
	if err != nil {
		return fmt.Errorf("read the image set: %w", err)
	}
	plan := &pager.Plan{}
	for _, m := range maps {
		if m.Shmem {
			if err := r.placeShared(m); err != nil {
				return err
			}
			continue
		}
		if err := r.placeSpace(m, plan); err != nil {
			return err
		}
	}
	if !r.lazy() {
		return nil
	}
	if err := r.memory.pager.SetPlan(plan); err != nil {
		return err
	}
	return r.beginFetching(ctx, remoteRuns(plan), remote)
}

// remoteRuns lists what a plan says is still at the source.
func remoteRuns(plan *pager.Plan) []postcopy.Run {
	var runs []postcopy.Run
	for _, t := range plan.Tasks {
		for _, e := range t.Extents {
			if e.Slot == pager.RemoteSlot {
				runs = append(runs, postcopy.Run{VPID: int32(t.VPID), Page: e.Addr / track.PageSize, Pages: e.Pages})
			}
		}
	}
	return runs
}

// placeSpace is placeMemory for one process.
func (r *receiver) placeSpace(m pagemap.Image, plan *pager.Plan) error {
	f, err := pagemap.ReadFile(m.Path)
	if err != nil {
		return fmt.Errorf("read the image set: %w", err)
	}
	store, space := r.memory.store, int32(m.ID)
	task := pager.TaskPlan{VPID: m.ID}
	for _, e := range f.Entries {
		if !e.InPlace() {
			continue
		}
		missing := ""
		store.Extents(space, e.Addr/track.PageSize, e.Pages, func(page uint64, n uint32, slot uint32, ok bool) bool {
			if !ok && r.stays() {
				slot, ok = pager.RemoteSlot, true
			}
			if !ok {
				missing = fmt.Sprintf("page %#x of process %d never came", page*track.PageSize, m.ID)
				return false
			}
			if slot != 0 && slot != pager.RemoteSlot && len(r.memory.shared) > 0 {
				r.memory.use.add(slot, n)
			}
			task.Extents = append(task.Extents, pager.Extent{Addr: page * track.PageSize, Pages: n, Slot: slot})
			return true
		})
		if missing != "" {
			return fmt.Errorf("the source sealed an incomplete memory: %s", missing)
		}
	}
	if r.lazy() {
		plan.Tasks = append(plan.Tasks, task)
		return nil
	}
	return pagemap.BuildEager(r.stage.Images(), m.ID, func(addr uint64, p []byte) error {
		return store.ReadPage(space, addr/track.PageSize, p)
	})
}

// guardMemory tells the pager whom to end should it fail to fill memory.
func (r *receiver) guardMemory(init int) error {
	if !r.lazy() {
		return nil
	}
	return r.memory.pager.Guard(init)
}

// verifyMemory compares every page of the held processes with the source's.
func (r *receiver) verifyMemory(init int) (*memcheck.Result, error) {
	if !r.offer.Verify || !r.inPlace() {
		return nil, nil
	}
	if r.lazy() {
		// what is not in place yet when it is read comes as it would for the container itself, by a fault
		if err := r.memory.pager.Fill(); err != nil {
			return nil, err
		}
	}
	pids, err := restoredPids(init)
	if err != nil {
		return nil, err
	}
	kernels, err := criu.KernelWrites(r.stage.Images())
	if err != nil {
		return nil, err
	}
	f, err := os.Open(r.checkPath())
	if err != nil {
		return nil, fmt.Errorf("open the page check: %w", err)
	}
	defer f.Close()
	view := &restoredMemory{pids: pids, kernels: kernels, shared: r.memory.shared}
	defer view.close()
	res, err := memcheck.Compare(f, view.open)
	if err != nil {
		return nil, err
	}
	if res.Differing > 0 {
		return &res, &fail.Fault{Code: fail.Restore, What: "verify the restored memory", Where: "destination, phase restore",
			Why:    fmt.Sprintf("%d of %d pages differ, the first is %s", res.Differing, res.Compared, res.First),
			Remedy: "report this as a defect of migrate, with the output of --json"}
	}
	return &res, nil
}

// commitMemory lets the pager outlive this agent.
func (r *receiver) commitMemory() error {
	if !r.lazy() {
		return nil
	}
	return r.memory.pager.Commit()
}

// fillMemory begins to fill what the container does not touch by itself; not before it runs, since that takes CPUs and memory
// bandwidth that are better spent on its resume.
func (r *receiver) fillMemory() {
	if !r.lazy() {
		return
	}
	if err := r.memory.pager.Fill(); err != nil {
		r.log.Warn("fill memory", "err", err) // what is touched still comes
	}
}

// awaitFill returns when all memory is in place.
func (r *receiver) awaitFill(ctx context.Context, resumed time.Time) (*report.Fill, error) {
	if !r.lazy() {
		return nil, nil
	}
	st, err := r.memory.pager.Filled(ctx)
	if err != nil {
		return nil, err
	}
	return &report.Fill{MS: report.MS(time.Since(resumed)), Pages: st.Pages, Faults: st.Faults}, nil
}
