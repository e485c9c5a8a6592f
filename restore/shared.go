package restore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"migrate/internal/criu"
	"migrate/internal/criu/pagemap"
	"migrate/internal/filler"
	"migrate/internal/memcheck"
	"migrate/internal/proto"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// Shared memory cannot be filled in after the container was resumed, as private memory is: the kernel tells nobody when a page is missing that
// is read by a system call, or through a mapping that came later. It is put in while the restored processes are held, by several workers and
// from where the rounds have stored it. CRIU restores it empty, and has its content only where no process can be written it through.

// sharedFill is what is to be put into shared memory: consecutive slots of the store, through a window of a process.
type sharedFill struct {
	window int // by its place in memory.windows
	off    uint64
	slot   uint32
	pages  uint32
}

// fillPages is how many pages are put in at once through a process: what fits the processor's cache, so that it is copied from memory once.
const fillPages = 64

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
			m.windows = append(m.windows, w)
			return m.extents(id, track.Range{Start: w.Offset, End: w.Offset + w.Len}, func(off uint64, n, slot uint32) {
				if slot != 0 { // it is zeros as it is
					m.use.add(slot, n)
					m.fills = append(m.fills, sharedFill{window: len(m.windows) - 1, off: off - w.Offset, slot: slot, pages: n})
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

// startFiller starts the process that fills shared memory, beside the restore. It is not waited for.
func (r *receiver) startFiller() error {
	if r.memory == nil || len(r.memory.fills) == 0 {
		return nil
	}
	f, err := filler.Start(r.opt.Filler)
	if err != nil {
		return err
	}
	r.memory.filler = f
	r.push("end the filler", func(context.Context) error { f.End(); return nil })
	return nil
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
	err = r.memory.filler.Join(ctx, init)
	whole := err == nil
	if err != nil && !errors.Is(err, filler.ErrLimited) {
		return err
	}
	job, pieces, rest, err := r.memory.pieces(pids, whole)
	if err != nil {
		return err
	}
	if len(pieces) > 0 {
		if err := r.memory.filler.Fill(ctx, job, pieces); err != nil {
			return err
		}
	}
	r.memory.filler.End()
	return r.memory.putAll(ctx, rest, pids)
}

// pieces makes the filler's job of what is to be put in. The rest has to go through the processes: with whole false, all.
func (m *memory) pieces(pids map[int]int, whole bool) (job filler.Job, pieces []filler.Piece, rest []sharedFill, err error) {
	if !whole {
		return job, nil, m.fills, nil
	}
	set, err := shmem.NewSet()
	if err != nil {
		return job, nil, nil, err
	}
	job.Store = m.store.Path()
	type place struct {
		object uint32
		off    uint64
		ok     bool
	}
	known, objects := map[int]place{}, map[string]uint32{}
	for _, f := range m.fills {
		at, seen := known[f.window]
		if !seen {
			w := m.windows[f.window]
			pid, there := pids[w.VPid]
			if !there {
				return job, nil, nil, fmt.Errorf("process %d was not restored", w.VPid)
			}
			path, off, ok, err := set.File(pid, w)
			if err != nil {
				return job, nil, nil, err
			}
			object, twice := objects[path]
			if ok && !twice {
				object = uint32(len(job.Objects))
				job.Objects, objects[path] = append(job.Objects, path), object
			}
			at = place{object, off, ok}
			known[f.window] = at
		}
		if !at.ok {
			rest = append(rest, f)
			continue
		}
		pieces = m.cut(pieces, f, at.object, at.off)
	}
	return job, pieces, rest, nil
}

// cut adds the pieces of a fill, in which slots that nobody else needs are apart from others.
func (m *memory) cut(pieces []filler.Piece, f sharedFill, object uint32, off uint64) []filler.Piece {
	for i := uint32(0); i < f.pages; {
		p := filler.Piece{Object: object, Slot: f.slot + i, Off: off + f.off + uint64(i)*track.PageSize}
		last := m.use.once(p.Slot)
		if last {
			p.Last = 1
		}
		for ; i < f.pages && m.use.once(f.slot+i) == last; i++ {
			p.Pages++
		}
		pieces = append(pieces, p)
	}
	return pieces
}

// putAll puts in through the processes what cannot be put in otherwise.
func (m *memory) putAll(ctx context.Context, fills []sharedFill, pids map[int]int) error {
	buf := track.NewBuffer(fillPages * track.PageSize)
	for _, f := range fills {
		w := m.windows[f.window]
		pid, ok := pids[w.VPid]
		if !ok {
			return fmt.Errorf("put in shared memory: process %d was not restored", w.VPid)
		}
		for f.pages > 0 {
			if ctx.Err() != nil {
				return fmt.Errorf("put in shared memory: %w", context.Cause(ctx))
			}
			n := min(f.pages, fillPages)
			if err := m.put(f.slot, n, pid, w.Addr+f.off, buf); err != nil {
				return fmt.Errorf("put in shared memory: %w", err)
			}
			f.slot, f.pages, f.off = f.slot+n, f.pages-n, f.off+uint64(n)*track.PageSize
		}
	}
	return nil
}

// put gives the memory that the store has for a page back as soon as it was read, see package filler.
func (m *memory) put(slot, n uint32, pid int, addr uint64, buf []byte) error {
	p := buf[:n*track.PageSize]
	if err := m.store.ReadSlots(slot, p); err != nil {
		return err
	}
	if err := m.use.single(slot, n, m.store.Discard); err != nil {
		return err
	}
	return shmem.Write(pid, addr, p)
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
