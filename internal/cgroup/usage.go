package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage tells how much CPU time all processes of a control group and those below it have taken.
type Usage struct{ file string }

// UsageOf finds the accounting that a process is under.
func UsageOf(pid int) (*Usage, error) {
	d, err := Find(pid, "cpuacct")
	if err != nil {
		return nil, err
	}
	u := &Usage{file: filepath.Join(d.Path, "cpuacct.usage")}
	if d.Unified {
		u.file = filepath.Join(d.Path, "cpu.stat")
	}
	_, err = u.Time()
	return u, err
}

// Time is what was taken so far.
func (u *Usage) Time() (time.Duration, error) {
	b, err := os.ReadFile(u.file)
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	t, err := parseUsage(string(b))
	if err != nil {
		return 0, fmt.Errorf("read CPU time from %s: %w", u.file, err)
	}
	return t, nil
}

// parseUsage takes the one number of version 1, in ns, or the file of version 2, which has it in µs.
func parseUsage(text string) (time.Duration, error) {
	if n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil {
		return time.Duration(n), nil
	}
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "usage_usec "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return time.Duration(n) * time.Microsecond, err
		}
	}
	return 0, errors.New("no CPU time is told")
}
