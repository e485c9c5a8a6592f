package criu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// meminfoField returns the value in bytes of a "Name:   123 kB" line.
func meminfoField(text, name string) (int64, error) {
	for _, line := range strings.Split(text, "\n") {
		rest, ok := strings.CutPrefix(line, name+":")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("parse %s: %w", name, err)
		}
		return kb << 10, nil
	}
	return 0, fmt.Errorf("no line %s", name)
}

// MemoryOf estimates how many bytes of memory the processes have that has to be moved: what is theirs alone, and what they map of what is
// shared. Processes that end meanwhile count as nothing.
func MemoryOf(pids []int) int64 {
	// Pss counts file pages too, which CRIU leaves where they are; Pss_File takes them out again
	return sumOf(pids, map[string]int64{"Pss": 1, "Pss_File": -1, "SwapPss": 1, "Private_Hugetlb": 1})
}

// SharedMemoryOf estimates how much of MemoryOf is shared memory.
func SharedMemoryOf(pids []int) int64 { return sumOf(pids, map[string]int64{"Pss_Shmem": 1}) }

// sumOf adds up fields of all processes' smaps_rollup, with the signs given.
func sumOf(pids []int, fields map[string]int64) int64 {
	var sum int64
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue
		}
		for field, sign := range fields {
			if n, err := meminfoField(string(b), field); err == nil {
				sum += sign * n
			}
		}
	}
	return sum
}

// SharedMappings lists the files that the processes map shared and writable, as paths in the container's root: what
// is stored through such a mapping need not show in a file's times.
func SharedMappings(pids []int) []string {
	seen := map[string]bool{}
	var paths []string
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			p, ok := sharedPath(line)
			if ok && !seen[p] {
				seen[p] = true
				paths = append(paths, p)
			}
		}
	}
	return paths
}

// sharedPath parses a line of /proc/PID/maps: address perms offset dev inode path.
func sharedPath(line string) (string, bool) {
	f := strings.Fields(line)
	if len(f) < 6 || !strings.HasPrefix(f[5], "/") || len(f[1]) < 4 || f[1][1] != 'w' || f[1][3] != 's' {
		return "", false
	}
	p := line[strings.Index(line, f[5]):]
	return strings.TrimPrefix(strings.TrimSuffix(p, " (deleted)"), "/"), true
}
