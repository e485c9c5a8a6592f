package criu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	mm "github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	pstree "github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"migrate/internal/criu/pagemap"
	"migrate/internal/track"
)

// Once a dump that leaves memory in place is held, its image set is completed: pages that may come later are noted as such, and the others of
// private memory, which CRIU wants before the tasks run, are read out of the tasks and put in. Shared memory is noted as what is not in
// the set at all.

// What makes memory one that may not come later (criu/include/vma.h, vma_entry_can_be_lazy): status bits of CRIU's and mapping
// flags of the kernel's.
const (
	vmaVDSO, vmaVVAR, vmaVsyscall = 1 << 3, 1 << 12, 1 << 2
	mapLocked                     = unix.MAP_LOCKED
)

const (
	mmMagic     = 0x57492820
	pstreeMagic = 0x50273030
	maxImage    = 256 << 20 // bytes of one metadata image
)

// settle does it for all tasks. With claimed the set refers to an earlier one.
func (d *DumpRequest) settle(claimed bool) error {
	if err := os.Remove(filepath.Join(d.ImageDir, "parent")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the link to the claimed parent: %w", err)
	}
	threads := map[uint32][]uint32{}
	if claimed {
		var err error
		if threads, err = readThreads(d.ImageDir); err != nil {
			return err
		}
	}
	pids := map[int]int{}
	tasks, err := NewFreezer(d.Freezer).Tasks()
	if err != nil {
		return err
	}
	for _, pid := range tasks {
		if v, err := track.VPid(pid); err == nil {
			pids[v] = pid
		}
	}
	images, err := pagemap.List(d.ImageDir)
	if err != nil {
		return err
	}
	for _, m := range images {
		if m.Shmem {
			if err := pagemap.Leave(m); err != nil {
				return fmt.Errorf("settle shared memory %d: %w", m.ID, err)
			}
			continue
		}
		if err := d.settleTask(m.ID, pids[m.ID], threads[uint32(m.ID)], claimed); err != nil {
			return fmt.Errorf("settle the memory of task %d: %w", m.ID, err)
		}
	}
	return d.removeLinks()
}

func (d *DumpRequest) settleTask(vpid, pid int, threads []uint32, claimed bool) (err error) {
	var later []pagemap.Range
	if claimed {
		if later, err = laterRanges(d.ImageDir, vpid, threads); err != nil {
			return err
		}
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	return pagemap.Settle(d.ImageDir, vpid, later, func(addr uint64, p []byte) error {
		_, err := mem.ReadAt(p, int64(addr))
		return err
	})
}

// laterRanges lists the ranges of a task's memory that may come after it was resumed, ascending.
func laterRanges(dir string, vpid int, threads []uint32) ([]pagemap.Range, error) {
	var entry mm.MmEntry
	if err := readImage(filepath.Join(dir, fmt.Sprintf("mm-%d.img", vpid)), mmMagic, &entry); err != nil {
		return nil, err
	}
	// the pages that stack pointers are in are needed at once
	now := map[uint64]bool{}
	for _, t := range threads {
		c, err := readCore(filepath.Join(dir, fmt.Sprintf("core-%d.img", t)))
		if err != nil {
			return nil, err
		}
		now[stackPointer(c)&^(pagemap.PageSize-1)] = true
	}
	var list []pagemap.Range
	for _, v := range entry.GetVmas() {
		flags, status := v.GetFlags(), v.GetStatus()
		if flags&unix.MAP_ANONYMOUS == 0 || flags&unix.MAP_PRIVATE == 0 || flags&(mapLocked|unix.MAP_HUGETLB) != 0 ||
			status&(vmaVDSO|vmaVVAR|vmaVsyscall) != 0 {
			continue
		}
		list = append(list, without(v.GetStart(), v.GetEnd(), now)...)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Start < list[j].Start })
	return list, nil
}

// stackPointer reads the registers of a thread, on amd64 and arm64.
func stackPointer(c *core.CoreEntry) uint64 {
	if x86 := c.GetThreadInfo(); x86 != nil {
		return x86.GetGpregs().GetSp()
	}
	return c.GetTiAarch64().GetGpregs().GetSp()
}

// without cuts pages out of a range.
func without(start, end uint64, pages map[uint64]bool) []pagemap.Range {
	var cuts []uint64
	for p := range pages {
		if start <= p && p < end {
			cuts = append(cuts, p)
		}
	}
	sort.Slice(cuts, func(i, j int) bool { return cuts[i] < cuts[j] })
	var list []pagemap.Range
	for _, c := range append(cuts, end) {
		if start < c {
			list = append(list, pagemap.Range{Start: start, End: c})
		}
		start = c + pagemap.PageSize
	}
	return list
}

// readThreads maps each task to its threads, by their pids in their own namespace.
func readThreads(dir string) (map[uint32][]uint32, error) {
	b, err := os.ReadFile(filepath.Join(dir, "pstree.img"))
	if err != nil {
		return nil, fmt.Errorf("read the image set: %w", err)
	}
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != commonMagic || binary.LittleEndian.Uint32(b[4:]) != pstreeMagic {
		return nil, fmt.Errorf("%w: not a process tree", ErrImageSet)
	}
	threads := map[uint32][]uint32{}
	for b = b[8:]; len(b) > 0; {
		body, rest, err := record(b)
		if err != nil {
			return nil, err
		}
		var e pstree.PstreeEntry
		if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(body, &e); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrImageSet, err)
		}
		threads[e.GetPid()] = e.GetThreads()
		b = rest
	}
	return threads, nil
}

// livingThreads is readThreads without the threads of processes that have ended and whose parents have not asked for them: what the image set has for
// those is chance, as they have no memory either (criu/cr-dump.c, dump_zombies).
func livingThreads(dir string) (map[uint32][]uint32, error) {
	threads, err := readThreads(dir)
	if err != nil {
		return nil, err
	}
	for pid := range threads {
		_, err := os.Stat(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid)))
		if errors.Is(err, os.ErrNotExist) {
			threads[pid] = nil
		} else if err != nil {
			return nil, fmt.Errorf("read the image set: %w", err)
		}
	}
	return threads, nil
}

// record splits the first record off: a u32 length and as many bytes (criu/protobuf.c).
func record(b []byte) (body, rest []byte, err error) {
	if len(b) < 4 || uint64(binary.LittleEndian.Uint32(b)) > uint64(len(b)-4) {
		return nil, nil, fmt.Errorf("%w: a record is cut off", ErrImageSet)
	}
	n := binary.LittleEndian.Uint32(b)
	return b[4 : 4+n], b[4+n:], nil
}

// readImage decodes an image of one record.
func readImage(path string, magic uint32, into proto.Message) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("read the image set: %w", err)
	}
	if info.Size() > maxImage {
		return fmt.Errorf("%w: %s has %d bytes", ErrImageSet, filepath.Base(path), info.Size())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the image set: %w", err)
	}
	if len(b) < 8 || binary.LittleEndian.Uint32(b) != commonMagic || binary.LittleEndian.Uint32(b[4:]) != magic {
		return fmt.Errorf("%w: %s is not what it is called", ErrImageSet, filepath.Base(path))
	}
	body, _, err := record(b[8:])
	if err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(body, into); err != nil {
		return fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	return nil
}
