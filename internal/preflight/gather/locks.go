package gather

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"migrate/internal/preflight"
)

// A lockedFile is named as /proc/locks and /proc/PID/maps do: a device as they print it, and an inode.
type lockedFile struct{ dev, inode string }

// findMappedLocks finds the files of which a process holds a POSIX lock and which it has mapped. Before Linux 6.8 the two lists name
// files of an overlay differently, and none is found there.
func findMappedLocks(c *preflight.Container) error {
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return err
	}
	locks := parsePOSIXLocks(string(text))
	for _, p := range c.Procs {
		if len(locks[p.Pid]) == 0 {
			continue
		}
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.Pid))
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		p.Locked = mappedOf(string(maps), locks[p.Pid])
	}
	return nil
}

// parsePOSIXLocks reads lines "1: POSIX  ADVISORY  READ 22603 fe:00:9978076 128 128", by holder. What waits for a lock has an arrow
// before its kind.
func parsePOSIXLocks(text string) map[int][]lockedFile {
	locks := map[int][]lockedFile{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "POSIX" {
			continue
		}
		pid, err := strconv.Atoi(f[4])
		at := strings.LastIndexByte(f[5], ':')
		if err == nil && pid > 0 && at > 0 {
			locks[pid] = append(locks[pid], lockedFile{f[5][:at], f[5][at+1:]})
		}
	}
	return locks
}

// mappedOf lists the paths of those files that a process's list of mappings has, each once.
func mappedOf(maps string, files []lockedFile) (paths []string) {
	for line := range strings.Lines(maps) {
		const fields = 6 // addresses, access, offset, device, inode, path
		f := strings.Fields(line)
		if len(f) < fields || !slices.Contains(files, lockedFile{f[3], f[4]}) {
			continue
		}
		if path := strings.Join(f[fields-1:], " "); !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}
