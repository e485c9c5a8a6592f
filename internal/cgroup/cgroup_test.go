package cgroup

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestFind(t *testing.T) {
	const v1Mount = "40 30 0:35 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
	const v2Mount = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	for name, c := range map[string]struct {
		cgroups, mounts string
		want            Dir
	}{
		"version 1": {"5:cpu,cpuacct:/x\n3:freezer:/default/web\n0::/\n", v2Mount + v1Mount, Dir{"/sys/fs/cgroup/freezer/default/web", false}},
		"version 2": {"0::/system.slice/web.scope\n", v2Mount, Dir{"/sys/fs/cgroup/system.slice/web.scope", true}},
		"part of the hierarchy is mounted": {"3:freezer:/hosts/a/web\n", "40 30 0:35 /hosts/a /sys/fs/cgroup/freezer rw shared:9 - cgroup cgroup rw,freezer\n",
			Dir{"/sys/fs/cgroup/freezer/web", false}},
		"optional fields":   {"0::/x\n", "30 20 0:26 / /sys/fs/cgroup rw shared:4 master:1 - cgroup2 cgroup2 rw\n", Dir{"/sys/fs/cgroup/x", true}},
		"nothing":           {"0::/x\n", "22 1 0:21 / /proc rw - proc proc rw\n", Dir{}},
		"damaged mountinfo": {"0::/x\n", "22 1 0:21 - cgroup2\n", Dir{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := find(c.cgroups, c.mounts, "freezer")
			if got != c.want || errors.Is(err, ErrNone) != (c.want.Path == "") {
				t.Errorf("%+v, %v, want %+v", got, err, c.want)
			}
		})
	}
}

func TestParseUsage(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"1234567\n": 1234567,
		"usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n": 2500 * time.Microsecond,
		"user_usec 2000\n":      -1,
		"":                      -1,
		"usage_usec a number\n": -1,
	} {
		got, err := parseUsage(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
}

// What this process itself takes shows in what its group has taken.
func TestUsageOf(t *testing.T) {
	u, err := UsageOf(os.Getpid())
	if err != nil {
		t.Skip("SKIPPED: no accounting of CPU time here:", err)
	}
	before, err := u.Time()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Millisecond); time.Now().Before(end); {
		continue
	}
	after, err := u.Time()
	if err != nil || after <= before {
		t.Errorf("%v, then %v, %v", before, after, err)
	}
}
