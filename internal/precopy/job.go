package precopy

import (
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// job is what one worker reads at once: pages of one process, or of one piece of shared memory, at most batch bytes of them.
type job struct {
	pid    int
	object *shmem.Object // nil for those of a process
	space  int32
	ranges []track.Range
	void   []track.Range // of the same space, what there is no more
}

const (
	// batch also is what is done between two looks at the pace, about a millisecond's work, and fits the processor's cache, so that
	// what was read is still there when it is hashed and sent.
	batch = 256 << 10
	// maxRanges keeps a job's ranges within what one call of process_vm_readv takes.
	maxRanges = 512
)

func (j job) bytes() int64 {
	n := uint64(0)
	for _, r := range j.ranges {
		n += r.End - r.Start
	}
	return int64(n)
}

// jobsOf cuts the pages of a scan into jobs.
func jobsOf(procs []track.Proc) []job {
	var jobs []job
	for _, p := range procs {
		jobs = cut(jobs, job{pid: p.Pid, space: int32(p.VPid)}, p.Pages)
	}
	return jobs
}

// cut appends jobs like this one, for so many ranges.
func cut(jobs []job, like job, ranges []track.Range) []job {
	var room uint64
	cur := -1
	for _, r := range ranges {
		for r.Start < r.End {
			if cur < 0 || room == 0 || len(jobs[cur].ranges) == maxRanges {
				jobs = append(jobs, like)
				cur, room = len(jobs)-1, batch
			}
			n := min(r.End-r.Start, room)
			jobs[cur].ranges = append(jobs[cur].ranges, track.Range{Start: r.Start, End: r.Start + n})
			r.Start += n
			room -= n
		}
	}
	return jobs
}
