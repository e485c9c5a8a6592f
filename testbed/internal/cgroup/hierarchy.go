// Package cgroup gives a testbed its own subtree in every cgroup hierarchy of
// the machine, whether version 1, version 2 or both are mounted.
//
// The subtree is the list of all processes of a testbed that survives a crash
// of whatever started them: [Tree.Kill] ends every process in it, and
// [Tree.Remove] then takes the directories away.
package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Root is where the cgroup file systems of a machine are mounted.
const Root = "/sys/fs/cgroup"

// A Hierarchy is one mounted cgroup file system.
type Hierarchy struct {
	Mount string // directory it is mounted at
	V2    bool
	Data  string // mount data that gives the same hierarchy again: "memory", "none,name=systemd"
}

// Mounted lists the hierarchies of this machine.
func Mounted() ([]Hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	defer f.Close()
	found, err := parse(f)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted below " + Root + ": mount cgroup2 there")
	}
	return found, nil
}

// parse reads mountinfo. A hierarchy that is mounted twice counts once.
func parse(mountinfo io.Reader) ([]Hierarchy, error) {
	var found []Hierarchy
	seen := map[string]bool{}
	for lines := bufio.NewScanner(mountinfo); ; {
		if !lines.Scan() {
			return found, lines.Err()
		}
		h, device, ok := parseLine(lines.Text())
		if ok && !seen[device] {
			seen[device] = true
			found = append(found, h)
		}
	}
}

// parseLine takes one line of mountinfo apart, see proc_pid_mountinfo(5).
func parseLine(line string) (h Hierarchy, device string, ok bool) {
	left, right, ok := strings.Cut(line, " - ")
	before, after := strings.Fields(left), strings.Fields(right)
	if !ok || len(before) < 6 || len(after) < 3 {
		return h, "", false
	}
	h.Mount = before[4]
	if h.Mount != Root && !strings.HasPrefix(h.Mount, Root+"/") {
		return h, "", false
	}
	switch after[0] {
	case "cgroup2":
		h.V2 = true
	case "cgroup":
		h.Data = mountData(after[2])
	default:
		return h, "", false
	}
	return h, before[2], true
}

// mountData keeps of the super block's options those that select a hierarchy.
func mountData(options string) string {
	var keep []string
	for option := range strings.SplitSeq(options, ",") {
		switch {
		case strings.HasPrefix(option, "name="):
			keep = append(keep, "none", option)
		case option == "rw", option == "ro", option == "xattr", option == "clone_children",
			strings.HasPrefix(option, "release_agent="):
		default:
			keep = append(keep, option)
		}
	}
	return strings.Join(keep, ",")
}
