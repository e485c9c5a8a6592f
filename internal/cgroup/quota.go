package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Quota is a control group's limit of CPU time as it was found, so that another one can be set and this one given back. It can
// be handed to another process as JSON.
type Quota struct {
	Dir   Dir    `json:"dir"`
	Limit string `json:"limit"` // content of cpu.cfs_quota_us or cpu.max
	// Burst is what may be saved up; a limit below it is refused by the kernel. Empty where the kernel has none.
	Burst string `json:"burst"`
	// Period in µs, of which the limit is a part; other limits keep it.
	Period int64 `json:"period"`
}

// QuotaOf reads the limit of the control group that a process is in.
func QuotaOf(pid int) (*Quota, error) {
	d, err := Find(pid, "cpu")
	if err != nil {
		return nil, err
	}
	q, err := quotaIn(d)
	if err != nil {
		return nil, fmt.Errorf("read the CPU limit of process %d: %w", pid, err)
	}
	return q, nil
}

func quotaIn(d Dir) (*Quota, error) {
	q := &Quota{Dir: d}
	var err error
	if q.Limit, err = q.read(q.limitFile()); err != nil {
		return nil, err
	}
	if q.Burst, err = q.read(q.burstFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	period := ""
	if d.Unified {
		_, period, _ = strings.Cut(q.Limit, " ")
	} else if period, err = q.read("cpu.cfs_period_us"); err != nil {
		return nil, err
	}
	if q.Period, err = strconv.ParseInt(period, 10, 64); err != nil || q.Period <= 0 {
		return nil, fmt.Errorf("%s has the period %q", d.Path, period)
	}
	return q, nil
}

func (q *Quota) limitFile() string {
	if q.Dir.Unified {
		return "cpu.max"
	}
	return "cpu.cfs_quota_us"
}

func (q *Quota) burstFile() string {
	if q.Dir.Unified {
		return "cpu.max.burst"
	}
	return "cpu.cfs_burst_us"
}

func (q *Quota) read(name string) (string, error) {
	b, err := os.ReadFile(filepath.Join(q.Dir.Path, name))
	return strings.TrimSpace(string(b)), err
}

func (q *Quota) write(name, text string) error {
	f, err := os.OpenFile(filepath.Join(q.Dir.Path, name), os.O_WRONLY, 0) // not created, should the group be gone
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// CPUs is the limit that was found, +Inf for none.
func (q *Quota) CPUs() float64 {
	limit, _, _ := strings.Cut(q.Limit, " ")
	n, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || n < 0 { // "max", or -1
		return math.Inf(1)
	}
	return float64(n) / float64(q.Period)
}

// leastQuota in µs is what the kernel takes at least (Documentation/scheduler/sched-bwc.rst).
const leastQuota = 1000

// Set limits the group to so many CPUs, or as few as the kernel takes, but not above the limit that was found.
func (q *Quota) Set(cpus float64) error {
	text := strconv.FormatInt(max(int64(min(cpus, q.CPUs())*float64(q.Period)), leastQuota), 10)
	if q.Dir.Unified {
		text += " " + strconv.FormatInt(q.Period, 10)
	}
	if q.Burst != "" && q.Burst != "0" {
		if err := q.write(q.burstFile(), "0"); err != nil {
			return fmt.Errorf("limit CPUs of %s: %w", q.Dir.Path, err)
		}
	}
	if err := q.write(q.limitFile(), text); err != nil {
		return fmt.Errorf("limit CPUs of %s: %w", q.Dir.Path, err)
	}
	return nil
}

// Restore sets what was found. That the group is gone is no error.
func (q *Quota) Restore() error {
	err := q.write(q.limitFile(), q.Limit)
	if err == nil && q.Burst != "" && q.Burst != "0" {
		err = q.write(q.burstFile(), q.Burst)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give %s its CPUs back: %w", q.Dir.Path, err)
	}
	return nil
}
