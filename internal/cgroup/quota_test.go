package cgroup

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// group is a directory that plays a control group.
func group(t *testing.T, unified bool, files map[string]string) Dir {
	t.Helper()
	d := Dir{Path: t.TempDir(), Unified: unified}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(d.Path, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func assertFile(t *testing.T, d Dir, name, want string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Path, name))
	// a real file of this kind takes each write for its whole content
	if got := string(b[:min(len(want), len(b))]); err != nil || got != want {
		t.Errorf("%s has %q, %v, want %q", name, b, err, want)
	}
}

func TestQuota(t *testing.T) {
	for name, c := range map[string]struct {
		unified    bool
		files      map[string]string
		limit      string // the file
		cpus       float64
		set        float64
		want, back string
	}{
		"version 1, no limit": {false, map[string]string{"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
			"cpu.cfs_quota_us", math.Inf(1), 0.5, "50000", "-1"},
		"version 1, a limit": {false, map[string]string{"cpu.cfs_quota_us": "20000\n", "cpu.cfs_period_us": "50000\n", "cpu.cfs_burst_us": "0\n"},
			"cpu.cfs_quota_us", 0.4, 0.2, "10000", "20000"},
		"never above the limit": {false, map[string]string{"cpu.cfs_quota_us": "20000\n", "cpu.cfs_period_us": "50000\n"},
			"cpu.cfs_quota_us", 0.4, 3, "20000", "20000"},
		"never below what the kernel takes": {false, map[string]string{"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
			"cpu.cfs_quota_us", math.Inf(1), 0.0001, "1000", "-1"},
		"version 2, no limit": {true, map[string]string{"cpu.max": "max 100000\n", "cpu.max.burst": "0\n"},
			"cpu.max", math.Inf(1), 0.25, "25000 100000", "max 100000"},
		"version 2, a limit": {true, map[string]string{"cpu.max": "150000 100000\n"},
			"cpu.max", 1.5, 0.75, "75000 100000", "150000 100000"},
	} {
		t.Run(name, func(t *testing.T) {
			d := group(t, c.unified, c.files)
			q, err := quotaIn(d)
			if err != nil {
				t.Fatal(err)
			}
			if q.CPUs() != c.cpus {
				t.Errorf("%v CPUs, want %v", q.CPUs(), c.cpus)
			}
			if err := q.Set(c.set); err != nil {
				t.Fatal(err)
			}
			assertFile(t, d, c.limit, c.want)
			b, err := json.Marshal(q) // to another process
			if err != nil {
				t.Fatal(err)
			}
			other := &Quota{}
			if err := json.Unmarshal(b, other); err != nil {
				t.Fatal(err)
			}
			if err := other.Restore(); err != nil {
				t.Fatal(err)
			}
			assertFile(t, d, c.limit, c.back)
		})
	}
}

// What was saved up is put aside and comes back.
func TestQuotaWithBurst(t *testing.T) {
	d := group(t, true, map[string]string{"cpu.max": "150000 100000\n", "cpu.max.burst": "90000\n"})
	q, err := quotaIn(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Set(0.1); err != nil {
		t.Fatal(err)
	}
	assertFile(t, d, "cpu.max.burst", "0")
	if err := q.Restore(); err != nil {
		t.Fatal(err)
	}
	assertFile(t, d, "cpu.max.burst", "90000")
}

func TestQuotaOfNothing(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no controller": {}, "no period": {"cpu.max": "max\n"}, "an odd period": {"cpu.max": "max nothing\n"},
	} {
		if q, err := quotaIn(group(t, true, files)); err == nil {
			t.Errorf("%s: %+v", name, q)
		}
	}
	q := &Quota{Dir: Dir{Path: filepath.Join(t.TempDir(), "gone")}, Limit: "-1", Period: 100000}
	if err := q.Restore(); err != nil {
		t.Errorf("restore of a group that is gone: %v", err)
	}
	if err := q.Set(1); err == nil {
		t.Error("a group that is gone was limited")
	}
}
