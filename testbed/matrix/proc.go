package matrix

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// children are a process's, as the machine numbers them.
func children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // the thread may just have ended
		for word := range strings.FieldsSeq(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// openFiles lists what a process has open, by kind rather than by number.
func openFiles(pid int) []string {
	var list []string
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue // it has just been closed
		}
		if kind, _, ok := strings.Cut(target, ":["); ok {
			target = kind // sockets and pipes have no name that lasts
		}
		list = append(list, target)
	}
	return list
}
