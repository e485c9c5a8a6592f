package restore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"migrate/internal/criu"
	"migrate/internal/criu/pagemap"
	"migrate/internal/memcheck"
	"migrate/internal/proto"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// Shared memory cannot be filled in after the container was resumed, as private memory is: the kernel tells nobody when a page is missing that
// is read by a system call, or through a mapping that came later. It is put in while the restored processes are held, by several workers and
// from where the rounds have stored it. CRIU restores it empty, and has its content only where no process can be written it through.

// sharedFill is what is to be put into shared memory: consecutive slots of the store, through the memory of a process.
type sharedFill struct {
	vpid  int
	addr  uint64
	slot  uint32
	pages uint32
}

// fillPages is how many pages one worker puts in at once: what fits its processor's cache, so that it is copied from memory once.
const fillPages = 64

// maxFillers is how many workers there are at most; more get in each other's way in the kernel.
const maxFillers = 4

// takeShared checks what the source says of shared memory.
func (m *memory) takeShared(list []proto.Shared) error {
	windows := 0
	m.shared = map[uint64]proto.Shared{}
	for _, s := range list {
		if _, twice := m.shared[s.ID]; twice {
			return fmt.Errorf("protocol error: shared memory %d twice", s.ID)
		}
		m.shared[s.ID] = s
		windows += len(s.Windows)
		end := uint64(0)
		for _, w := range s.Windows {
			if (w.Addr|w.Offset|w.Len)%track.PageSize != 0 || w.Len == 0 || w.VPid <= 0 || w.Offset < end ||
				w.Offset+w.Len < w.Offset || w.Addr+w.Len < w.Addr {
				return fmt.Errorf("protocol error: a window of shared memory %d is %+v", s.ID, w)
			}
			end = w.Offset + w.Len
		}
	}
	if len(list) > proto.MaxShared || windows > proto.MaxWindows {
		return errors.New("protocol error: too much shared memory")
	}
	return nil
}

// placeShared is placeMemory for a piece of shared memory.
func (r *receiver) placeShared(img pagemap.Image) error {
	f, err := pagemap.ReadFile(img.Path)
	if err != nil {
		return fmt.Errorf("read the image set: %w", err)
	}
	var there []track.Range
	for _, e := range f.Entries {
		if !e.InPlace() {
			return fmt.Errorf("protocol error: pages of shared memory %d that came in no round", img.ID)
		}
		there = append(there, track.Range{Start: e.Addr, End: e.End()})
	}
	id, m := uint64(img.ID), r.memory
	var keep []pagemap.Range
	err = shmem.Split(there, m.shared[id].Windows,
		func(w shmem.Window) error {
			return m.extents(id, track.Range{Start: w.Offset, End: w.Offset + w.Len}, func(off uint64, n, slot uint32) {
				if slot != 0 { // it is zeros as it is
					m.use.add(slot, n)
					m.fills = append(m.fills, sharedFill{vpid: w.VPid, addr: w.Addr + off - w.Offset, slot: slot, pages: n})
				}
			})
		},
		func(r track.Range) error {
			keep = append(keep, pagemap.Range(r))
			return m.extents(id, r, func(uint64, uint32, uint32) {})
		})
	if err != nil {
		return err
	}
	return pagemap.Keep(img, keep, func(off uint64, p []byte) error {
		return m.store.ReadPage(shmem.Space(id), off/track.PageSize, p)
	})
}

// extents tells where the store has pages of shared memory, all of which it must have.
func (m *memory) extents(id uint64, r track.Range, yield func(off uint64, n, slot uint32)) error {
	var err error
	m.store.Extents(shmem.Space(id), r.Start/track.PageSize, (r.End-r.Start)/track.PageSize, func(page uint64, n, slot uint32, ok bool) bool {
		if !ok {
			err = fmt.Errorf("the source sealed an incomplete memory: page %d of shared memory %d never came", page, id)
			return false
		}
		yield(page*track.PageSize, n, slot)
		return true
	})
	return err
}

// fillShared puts the content of shared memory in. The restored processes are held.
func (r *receiver) fillShared(ctx context.Context, init int) error {
	if r.memory == nil || len(r.memory.fills) == 0 {
		return nil
	}
	defer r.step("shared", time.Now())
	pids, err := restoredPids(init)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	queue := make(chan sharedFill)
	g.Go(func() error {
		defer close(queue)
		return deal(ctx, r.memory.fills, queue)
	})
	for range min(runtime.GOMAXPROCS(0), maxFillers) {
		g.Go(func() error {
			buf := track.NewBuffer(fillPages * track.PageSize)
			for f := range queue {
				if err := r.memory.put(f, pids, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("put in shared memory: %w", err)
	}
	return nil
}

// deal cuts what is to be put in into pieces.
func deal(ctx context.Context, fills []sharedFill, queue chan<- sharedFill) error {
	for _, f := range fills {
		for f.pages > 0 {
			part := f
			part.pages = min(f.pages, fillPages)
			select {
			case queue <- part:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			f.addr, f.slot, f.pages = f.addr+uint64(part.pages)*track.PageSize, f.slot+part.pages, f.pages-part.pages
		}
	}
	return nil
}

// put gives the memory that the store has for a page back as soon as it was read: the kernel uses it for the next ones, which is far cheaper
// than memory that it has to get from elsewhere, above all in a virtual machine.
func (m *memory) put(f sharedFill, pids map[int]int, buf []byte) error {
	pid, ok := pids[f.vpid]
	if !ok {
		return fmt.Errorf("process %d was not restored", f.vpid)
	}
	p := buf[:f.pages*track.PageSize]
	if err := m.store.ReadSlots(f.slot, p); err != nil {
		return err
	}
	if err := m.use.single(f.slot, f.pages, m.store.Discard); err != nil {
		return err
	}
	return shmem.Write(pid, f.addr, p)
}

// restoredMemory finds memory for a check of it.
type restoredMemory struct {
	pids    map[int]int
	kernels map[int][]track.Range // bytes that the kernel writes, by process
	shared  map[uint64]proto.Shared
	opened  []*shmem.Object
}

// open takes the number of a space.
func (v *restoredMemory) open(space int32) (memcheck.Memory, error) {
	if space > 0 {
		pid, ok := v.pids[int(space)]
		if !ok {
			return nil, fmt.Errorf("process %d was not restored", space)
		}
		return memcheck.Without{Memory: memcheck.Process(pid), Bytes: v.kernels[int(space)]}, nil
	}
	for id, s := range v.shared {
		pid, ok := v.pids[s.Handle.VPid]
		if shmem.Space(id) != space || !ok {
			continue
		}
		o, err := shmem.Open(pid, id, s.Handle)
		if err != nil {
			return nil, err
		}
		v.opened = append(v.opened, o)
		return memcheck.Shared{Object: o}, nil
	}
	return nil, fmt.Errorf("shared memory in space %d was not restored", space)
}

func (v *restoredMemory) close() {
	for _, o := range v.opened {
		_ = o.Close() // it was only read
	}
}

// restoredPids finds the restored processes on this host by their pids in their own namespace.
func restoredPids(init int) (map[int]int, error) {
	freezer, err := criu.FreezerOf(init)
	if err != nil {
		return nil, err
	}
	tasks, err := criu.NewFreezer(freezer).Tasks()
	if err != nil {
		return nil, err
	}
	pids := map[int]int{}
	for _, pid := range tasks {
		if v, err := track.VPid(pid); err == nil {
			pids[v] = pid
		}
	}
	return pids, nil
}
