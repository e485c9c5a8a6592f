package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/preflight"
	"migrate/internal/report"
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

// TestDevices moves a container that may use a device of the host: not without leave, and with it the container can use that of the other
// host.
func TestDevices(t *testing.T) {
	t.Parallel()
	const id, device = "device-fuse", "/dev/fuse"
	for _, h := range []*testbed.Host{hostA, hostB} {
		shell(t, h, `[ -e "$1" ] || mknod -m 666 "$1" c 10 229`, device)
	}
	s := mounted(t, hostA, id, "", "--device", device)
	send(t, hostA, id, startAgent(t, hostB)).failed(t, 4, device, "--allow-privileged", "never stopped")
	s.assertStayed(t, hostA, hostB)
	rights := func(h *testbed.Host) string {
		run(t, h, "ctr", "tasks", "exec", "--exec-id", "open", id, "sh", "-euc", ": <>"+device)
		return shell(t, h, `stat -c "%t:%T %a" "/proc/$2/root$3"; cat "/sys/fs/cgroup/devices/default/$1/devices.list" | sort`, id, fmt.Sprint(initPid(t, h, id)), device)
	}
	before := rights(hostA)
	if !strings.Contains(before, "c 10:229 rwm") {
		t.Fatalf("the source says\n%s", before)
	}
	from := hostA
	for _, to := range []*testbed.Host{hostB, hostA} {
		send(t, from, id, startAgent(t, to, "--allow-privileged"), "--json").moved(t)
		s.assertMoved(t, from, to)
		if after := rights(to); after != before {
			t.Errorf("%s: the devices are\n%s\nand were\n%s", to.Name, after, before)
		}
		assertOutputWhole(t, id, to)
		from = to
	}
}

// cgroupBed has two hosts with version 2 of cgroups only, a and b, whose controllers the machine uses in version 1, and one with
// version 1, c.
func cgroupBed(t *testing.T) (a, b, c *testbed.Host) {
	t.Helper()
	mixed, err := testbed.Up(t.Context(), testbed.Options{
		Name: bedName + "-v2", Hosts: []string{"a", "b", "c"}, Images: []string{testbed.ImageTools}, Workload: programs["workload"], Binaries: programs,
		Cgroup2: true, V1: []string{"c"}, Replace: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mixed.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	a, b, c = mixed.Host("a"), mixed.Host("b"), mixed.Host("c")
	for h, want := range map[*testbed.Host]string{a: "cgroup2fs", b: "cgroup2fs", c: "tmpfs"} {
		if got := run(t, h, "stat", "-f", "-c", "%T", "/sys/fs/cgroup"); got != want {
			t.Fatalf("host %s has %s", h.Name, got)
		}
	}
	return a, b, c
}

// TestCgroupVersions moves containers between hosts that have version 2 of cgroups only, and between such ones and one with version 1.
func TestCgroupVersions(t *testing.T) {
	t.Parallel()
	a, b, c := cgroupBed(t)
	agents := map[*testbed.Host]*agent{a: startAgent(t, a), b: startAgent(t, b), c: startAgent(t, c)}
	server := []string{"workload", "server", "--listen=:7000", "--memory-mib", "4", "--dirty-pages-per-sec", "200"}
	t.Run("from version 2", func(t *testing.T) {
		t.Parallel()
		const id = "cgroup2"
		s := servedAt(t, a, b, testbed.ContainerSpec{ID: id, Flags: []string{"--cpu-shares=0"}, Args: server})
		from := a
		for _, to := range []*testbed.Host{b, c, a, b} {
			rep := send(t, from, id, agents[to], "--json").moved(t)
			checkReport(t, rep)
			s.assertMoved(t, from, to)
			assertOwnGroup(t, to, id)
			if other := hasFinding(rep, "cgroup-version"); other != (from == c || to == c) {
				t.Errorf("from %s to %s the report says %v", from.Name, to.Name, rep.Findings)
			}
			from = to
		}
		s.finish(t)
	})
	t.Run("from version 1", func(t *testing.T) {
		t.Parallel()
		const id, limit = "cgroup1", "268435456"
		s := servedAt(t, c, b, testbed.ContainerSpec{ID: id, Flags: []string{"--memory-limit", limit}, Args: server})
		shares := func() string { // what there is where the controllers are
			return shell(t, c, `cat "/sys/fs/cgroup/memory/default/$1/memory.limit_in_bytes" "/sys/fs/cgroup/cpu/default/$1/cpu.shares"`, id)
		}
		before := shares()
		if !strings.HasPrefix(before, limit) {
			t.Fatalf("the limits are %q", before)
		}
		from := c
		for _, to := range []*testbed.Host{a, c} {
			rep := send(t, from, id, agents[to], "--json").moved(t)
			s.assertMoved(t, from, to)
			assertOwnGroup(t, to, id)
			if lost := hasFinding(rep, "cgroup-controller"); lost != (to == a) {
				t.Errorf("from %s to %s the report says %v", from.Name, to.Name, rep.Findings)
			}
			from = to
		}
		if after := shares(); after != before {
			t.Errorf("the limits were %q and are %q where there are controllers again", before, after)
		}
		s.finish(t)
	})
	t.Run("control groups mounted", func(t *testing.T) {
		t.Parallel()
		const id = "cgroup-mount"
		s := servedAt(t, c, b, testbed.ContainerSpec{ID: id, Args: server, Flags: []string{"--mount", "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro:nosuid:noexec:nodev"}})
		send(t, c, id, agents[a]).failed(t, 4, "cgroup-mount", "/sys/fs/cgroup", "v1 here, v2 there", "never stopped")
		s.assertStayed(t, c, a)
		s.finish(t)
	})
}

// servedAt starts a server in a container of any testbed, with a client at another host.
func servedAt(t *testing.T, h, at *testbed.Host, spec testbed.ContainerSpec) *subject {
	t.Helper()
	spec.Image, spec.Network, spec.IP = "testbed/tools:latest", testbed.NetworkCNI, newAddressAt(h)
	c, err := h.RunContainer(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	s := &subject{id: spec.ID, addr: c.Addr.String() + ":7000"}
	eventually(t, soon, s.addr+" is listened on", func() bool { return answersAt(at, s.addr) })
	s.client = start(t, at, "workload", "client", "--addr", s.addr, "--duration", "0", "--report", "50ms", "--verify", "--timeout", "60s")
	s.progressing(t)
	return s
}

// assertOwnGroup checks that all processes of the container are in a control group of its own, where the engine freezes and kills them, and
// in none that only the other version has, which this machine would let CRIU make.
func assertOwnGroup(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	groups := shell(t, h, `for pid in $(ctr tasks ps "$1" | awk 'NR > 1 { print $1 }'); do
		line=:freezer:; other=none; [ ! -e /sys/fs/cgroup/cgroup.controllers ] || { line=^0::; other=:freezer:; }
		grep -q "$line.*/$1\$" /proc/$pid/cgroup && ! grep -q "$other.*/$1\$" /proc/$pid/cgroup || cat /proc/$pid/cgroup; done`, id)
	if groups != "" {
		t.Errorf("%s: processes of %s are in the control groups\n%s", h.Name, id, groups)
	}
	if pids := run(t, h, "ctr", "tasks", "ps", id); len(lines(pids)) < 2 {
		t.Errorf("%s: the engine finds no processes of %s:\n%s", h.Name, id, pids)
	}
}

func hasFinding(rep *report.Report, code string) bool {
	return slices.ContainsFunc(rep.Findings, func(f preflight.Finding) bool { return f.Code == code })
}
