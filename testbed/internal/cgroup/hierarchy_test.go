package cgroup

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, mountinfo string
		want            []Hierarchy
	}{
		{"version 2 only", `
24 30 0:22 / /sys rw - sysfs sysfs rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate`,
			[]Hierarchy{{Mount: "/sys/fs/cgroup", V2: true}}},
		{"both", `
30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:9 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct`,
			[]Hierarchy{
				{Mount: "/sys/fs/cgroup/unified", V2: true},
				{Mount: "/sys/fs/cgroup/systemd", Data: "none,name=systemd"},
				{Mount: "/sys/fs/cgroup/cpu,cpuacct", Data: "cpu,cpuacct"},
			}},
		{"mounted twice, and elsewhere", `
30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
40 24 0:26 / /sys/fs/cgroup/again rw - cgroup2 cgroup2 rw
41 24 0:50 / /var/lib/lxcfs/cgroup rw - cgroup cgroup rw,memory`,
			[]Hierarchy{{Mount: "/sys/fs/cgroup", V2: true}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(strings.NewReader(test.mountinfo))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
