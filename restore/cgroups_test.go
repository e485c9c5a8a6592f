package restore

import (
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A host takes those limits for which it has controllers.
func TestFitResources(t *testing.T) {
	const all = `{"memory":{"limit":1048576},"cpu":{"shares":512,"quota":40000,"cpus":"0-1"},"pids":{"limit":7},"blockIO":{"weight":100},` +
		`"hugepageLimits":[{"pageSize":"2MB","limit":2097152}],"unified":{"cgroup.max.depth":"3","memory.high":"1048576"}}`
	for name, test := range map[string]struct {
		version     int
		controllers string
		want        string
	}{
		"all of version 2":  {2, "cpu cpuset io memory hugetlb pids rdma", all},
		"all of version 1":  {1, "blkio cpu cpuacct cpuset memory hugetlb pids", all[:strings.Index(all, `,"unified"`)] + "}"},
		"none":              {2, "", `{"cpu":{},"unified":{"cgroup.max.depth":"3"}}`},
		"no cpu":            {2, "cpuset memory pids", `{"memory":{"limit":1048576},"cpu":{"cpus":"0-1"},"pids":{"limit":7},"unified":{"cgroup.max.depth":"3","memory.high":"1048576"}}`},
		"no sets, no pages": {1, "cpu memory pids blkio", `{"memory":{"limit":1048576},"cpu":{"shares":512,"quota":40000},"pids":{"limit":7},"blockIO":{"weight":100}}`},
	} {
		var r, want specs.LinuxResources
		for into, text := range map[*specs.LinuxResources]string{&r: all, &want: test.want} {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				t.Fatal(err)
			}
		}
		fitResources(&r, test.version, strings.Fields(test.controllers))
		got, _ := json.Marshal(r)
		if expected, _ := json.Marshal(want); string(got) != string(expected) {
			t.Errorf("%s: limits are\n%s, want\n%s", name, got, expected)
		}
	}
	fitResources(&specs.LinuxResources{}, 1, nil) // has none to take
}
