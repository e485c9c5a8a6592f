package criu

import (
	"fmt"
	"path/filepath"
	"sort"

	"migrate/internal/track"
)

// rseqKernel are the parts of a thread's struct rseq that the kernel writes by itself, as offsets: cpu_id_start and cpu_id, node_id and
// mm_cid (include/uapi/linux/rseq.h). The program's own rseq_cs and flags are between them.
var rseqKernel = []track.Range{{Start: 0, End: 8}, {Start: 20, End: 28}}

// KernelWrites lists, by process, in which bytes of its memory the kernel notes where each of its threads runs, ascending: the area
// that a thread has registered for restartable sequences, as C libraries do for every thread. They are what they were only as long as the
// thread happens to run on the same CPU. Processes are named by their pids in their own namespace.
func KernelWrites(dir string) (map[int][]track.Range, error) {
	threads, err := livingThreads(dir)
	if err != nil {
		return nil, err
	}
	all := map[int][]track.Range{}
	for pid, tids := range threads {
		for _, tid := range tids {
			c, err := readCore(filepath.Join(dir, coreFile(tid)))
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", coreFile(tid), err)
			}
			area := c.GetThreadCore().GetRseqEntry()
			at := area.GetRseqAbiPointer()
			if at == 0 || at+uint64(area.GetRseqAbiSize()) < at {
				continue // none, or one that no process can have
			}
			for _, r := range rseqKernel {
				if r.End <= uint64(area.GetRseqAbiSize()) {
					all[int(pid)] = append(all[int(pid)], track.Range{Start: at + r.Start, End: at + r.End})
				}
			}
		}
		list := all[int(pid)]
		sort.Slice(list, func(i, j int) bool { return list[i].Start < list[j].Start })
	}
	return all, nil
}
