package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/testbed"
)

// limited is what a specification can say of a container's rights and limits, as far as ctr has no flags for it.
func limited(s *specs.Spec) {
	at := func(n int64) *int64 { return &n }
	score, period, shares := 321, uint64(50000), uint64(512)
	s.Process.User = specs.User{UID: 1234, GID: 567, AdditionalGids: []uint32{567, 5, 60}}
	bind := []string{"CAP_NET_BIND_SERVICE"}
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: []string{"CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"}, Permitted: bind, Effective: bind, Inheritable: bind, Ambient: bind,
	}
	s.Process.NoNewPrivileges = true
	s.Process.OOMScoreAdj = &score
	s.Process.Rlimits = []specs.POSIXRlimit{
		{Type: "RLIMIT_NOFILE", Soft: 1111, Hard: 2222}, {Type: "RLIMIT_CORE"}, {Type: "RLIMIT_NPROC", Soft: 333, Hard: 444}, {Type: "RLIMIT_STACK", Soft: 4 << 20, Hard: 8 << 20},
	}
	s.Linux.Sysctl = map[string]string{"net.core.somaxconn": "77", "net.ipv4.ip_unprivileged_port_start": "99", "kernel.msgmax": "4321", "kernel.shm_rmid_forced": "1"}
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: at(200 << 20)}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: at(40000), Period: &period, Shares: &shares}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: at(123)}
}

// observed prints what the kernel says of all of that, for each process.
const observed = `
id=$1
for pid in $(ctr tasks ps "$id" | awk 'NR > 1 { print $1 }' | sort -n); do
	echo "process $(cat /proc/$pid/comm)"
	grep -E "^(Uid|Gid|Groups|Umask|NSpid|Cap...|NoNewPrivs|Seccomp|Seccomp_filters|Cpus_allowed_list):" /proc/$pid/status | sed 's/^NSpid:.*[[:space:]]/pid /'
	cat /proc/$pid/limits
	echo "oom $(cat /proc/$pid/oom_score_adj)"
done
pid=$(ctr tasks ps "$id" | awk 'NR > 1 { print $1 }' | sort -n | head -1)
awk '{ print "mount", $5, $6 }' /proc/$pid/mountinfo | sed 's/,relatime//' | sort # in whatever order
nsenter -t $pid -u hostname
nsenter -t $pid -n -i sh -c 'for f in net/core/somaxconn net/ipv4/ip_unprivileged_port_start kernel/msgmax kernel/shm_rmid_forced; do echo "$f $(cat /proc/sys/$f)"; done'
cd /sys/fs/cgroup
find . -path "*/default/$id/*" \( -name memory.limit_in_bytes -o -name cpu.cfs_quota_us -o -name cpu.cfs_period_us -o -name cpu.shares -o -name pids.max \
	-o -name memory.max -o -name cpu.max -o -name cpu.weight -o -name devices.list -o -name cpuset.cpus \) | sort | while read f; do echo "$f $(tr '\n' ';' <$f)"; done
`

// setSpec changes the specification of a container that was not started yet. No tool of containerd's does.
func setSpec(t *testing.T, h *testbed.Host, id string, change func(*specs.Spec)) {
	t.Helper()
	c, err := client.New(h.Path("/run/containerd/containerd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx := namespaces.WithNamespace(t.Context(), "default")
	record, err := c.ContainerService().Get(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(record.Spec.GetValue(), &s); err != nil {
		t.Fatal(err)
	}
	change(&s)
	if record.Spec, err = typeurl.MarshalAny(&s); err == nil {
		_, err = c.ContainerService().Update(ctx, record, "spec")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRightsAndLimits moves a container whose specification says everything about what it may do, and compares what the kernel says
// of its processes at both ends. Its seccomp filter is asked too.
func TestRightsAndLimits(t *testing.T) {
	t.Parallel()
	const id = "limited"
	t.Cleanup(func() { purge(t, id) })
	const script = `mkfifo /scratch/go
		(read -r x </scratch/go; workload hold --kind io_uring --dir /scratch >/scratch/said 2>&1 || echo "$?" >/scratch/tried) &
		exec workload server --listen= --memory-mib 1`
	run(t, hostA, "ctr", "containers", "create", "--seccomp", "--read-only", "--hostname", "limited-host",
		"--mount", "type=tmpfs,src=tmpfs,dst=/scratch,options=mode=1777:nosuid:nodev", "testbed/tools:latest", id, "sh", "-euc", script)
	setSpec(t, hostA, id, limited)
	run(t, hostA, "ctr", "tasks", "start", "--detach", "--log-uri", "file:///var/log/"+id+".log", id)
	s := &subject{id: id}
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, hostA, id)) > 1 })
	look := func(h *testbed.Host) string { return shell(t, h, observed, id) }
	before := look(hostA)
	for _, word := range []string{"1234", "limited-host", "somaxconn 77", "msgmax 4321", "oom 321", "Seccomp:\t2", "NoNewPrivs:\t1", "1111", "209715200", "40000", "pids.max 123", "mount / ro"} {
		if !strings.Contains(before, word) {
			t.Errorf("the source does not show %q:\n%s", word, before)
		}
	}
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	from := hostA
	for _, to := range []*testbed.Host{hostB, hostA} {
		send(t, from, id, agents[to], "--json").moved(t)
		s.assertMoved(t, from, to)
		if after := look(to); after != before {
			t.Errorf("%s: the kernel says\n%s\nwhere it said\n%s", to.Name, after, before)
		}
		assertOutputWhole(t, id, to)
		assertNothingUnderWay(t, to, agents[to].dir)
		from = to
	}
	scratch := filepath.Join(rootOf(t, from, id), "scratch")
	shell(t, from, `echo >"/proc/$1/root/scratch/go"`, fmt.Sprint(initPid(t, from, id)))
	eventually(t, soon, "the container has tried to use io_uring", func() bool { _, err := os.Stat(scratch + "/tried"); return err == nil })
	if said := readAt(t, scratch+"/said"); !strings.Contains(said, "not permitted") && !strings.Contains(said, "not implemented") {
		t.Errorf("its seccomp filter lets it use io_uring: %s", said)
	}
}

// TestCgroup2 moves a container between hosts that have version 2 of cgroups only.
func TestCgroup2(t *testing.T) {
	t.Parallel()
	const id = "cgroup2"
	v2, err := testbed.Up(t.Context(), testbed.Options{
		Name: bedName + "-v2", Hosts: []string{"a", "b"}, Images: []string{testbed.ImageTools}, Workload: programs["workload"], Binaries: programs, Cgroup2: true, Replace: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v2.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	a, b := v2.Host("a"), v2.Host("b")
	if got := run(t, a, "stat", "-f", "-c", "%T", "/sys/fs/cgroup"); got != "cgroup2fs" {
		t.Fatalf("the host has %s", got)
	}
	c, err := a.RunContainer(t.Context(), testbed.ContainerSpec{
		ID: id, Image: "testbed/tools:latest", Network: testbed.NetworkCNI, Flags: []string{"--cpu-shares=0"},
		Args: []string{"workload", "server", "--listen=:7000", "--memory-mib", "4", "--dirty-pages-per-sec", "200"},
	})
	if err != nil {
		t.Fatal(err)
	}
	client := start(t, b, "workload", "client", "--addr", c.Addr.String()+":7000", "--duration", "0", "--report", "50ms", "--verify", "--timeout", "60s")
	s := &subject{id: id, client: client}
	s.progressing(t)
	agents := map[*testbed.Host]*agent{a: startAgent(t, a), b: startAgent(t, b)}
	from := a
	for _, to := range []*testbed.Host{b, a} {
		checkReport(t, send(t, from, id, agents[to], "--json").moved(t))
		s.assertMoved(t, from, to)
		assertNothingUnderWay(t, to, agents[to].dir)
		from = to
	}
	s.finish(t)
}
