package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"migrate/testbed/internal/rig"
)

// checkLeft waits until nothing of the move is left: faults of the container's memory that somebody else handles, and
// processes of the mover other than the agents.
func (s *subject) checkLeft(ctx context.Context) error {
	pid, err := s.pid(ctx)
	if err != nil {
		return err
	}
	var left []string
	err = rig.Eventually(ctx, "nothing is left of the move", func() (bool, error) {
		left = s.watched(pid)
		for _, site := range s.lab.sites {
			left = append(left, site.helpers()...)
		}
		return len(left) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.Join(left[:min(len(left), 20)], ", "))
	}
	return nil
}

// watched lists the container's processes that have memory registered with a userfaultfd, or such a descriptor, or that are stopped.
func (s *subject) watched(init int) (list []string) {
	proc := s.site().Path("/proc")
	namespace, err := os.Readlink(fmt.Sprintf("%s/%d/ns/pid", proc, init))
	if err != nil {
		return []string{fmt.Sprintf("process %d is gone", init)}
	}
	for _, pid := range pidsIn(proc) {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if ns, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || ns != namespace {
			continue
		}
		list = append(list, stopped(dir)...)
		if registered(dir) {
			list = append(list, fmt.Sprintf("process %d has memory with a userfaultfd", pid))
		}
		fds, _ := filepath.Glob(filepath.Join(dir, "fd/*"))
		for _, fd := range fds {
			if to, _ := os.Readlink(fd); to == "anon_inode:[userfaultfd]" {
				list = append(list, fmt.Sprintf("process %d has a userfaultfd as descriptor %s", pid, filepath.Base(fd)))
			}
		}
	}
	return list
}

func pidsIn(proc string) (pids []int) {
	entries, _ := os.ReadDir(proc)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// registered tells whether one of a process's mappings has the flags um or uw, see proc_pid_smaps(5).
func registered(dir string) bool {
	text, err := os.ReadFile(filepath.Join(dir, "smaps"))
	if err != nil {
		return false // it has ended
	}
	for line := range bytes.Lines(text) {
		flags, ok := bytes.CutPrefix(line, []byte("VmFlags:"))
		if ok && (bytes.Contains(flags, []byte(" um")) || bytes.Contains(flags, []byte(" uw"))) {
			return true
		}
	}
	return false
}

// argvOf is a process's command line; empty: it has ended.
func argvOf(proc string, pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("%s/%d/cmdline", proc, pid))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}

// stopped lists threads that do not go on by themselves.
func stopped(dir string) (list []string) {
	files, _ := filepath.Glob(filepath.Join(dir, "task/*/stat"))
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		state := strings.TrimSpace(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if strings.HasPrefix(state, "t") || strings.HasPrefix(state, "T") {
			list = append(list, "thread "+filepath.Base(filepath.Dir(f))+" is stopped")
		}
	}
	return list
}

// helpers lists processes of migrate and of CRIU, less the agent.
func (s *site) helpers() (list []string) {
	proc := s.Path("/proc")
	for _, pid := range pidsIn(proc) {
		argv := argvOf(proc, pid)
		if len(argv) < 2 || argv[1] == "recv" {
			continue
		}
		if name := filepath.Base(argv[0]); name == "migrate" || name == "criu" || argv[1] == "pager" || argv[1] == "guard" {
			list = append(list, fmt.Sprintf("host %s: process %d: %s", s.Name, pid, strings.Join(argv, " ")))
		}
	}
	return list
}
