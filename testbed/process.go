package testbed

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// A process is named by its pid and its start time, because pids come back.
type process struct {
	Pid   int
	Start uint64 // clock ticks after boot
}

func processOf(pid int) (process, error) {
	start, err := startTime(pid)
	if err != nil {
		return process{}, err
	}
	return process{pid, start}, nil
}

func (p process) alive() bool {
	start, err := startTime(p.Pid)
	return err == nil && p.Pid != 0 && start == p.Start
}

// startTime is field 22 of /proc/PID/stat, see proc_pid_stat(5). A zombie has none.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Field 2 is the name in parentheses and may contain anything.
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	const stateField, startField = 0, 22 - 3
	if !ok || len(fields) <= startField {
		return 0, fmt.Errorf("/proc/%d/stat is not understood", pid)
	}
	if fields[stateField][0] == 'Z' {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(string(fields[startField]), 10, 64)
}
