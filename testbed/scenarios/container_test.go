package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrate/testbed"
	"migrate/testbed/internal/child"
)

// A subject is a container that a test moves, with a client that notices what happens to it.
type subject struct {
	id     string
	addr   string // of its server; empty without a network
	addr6  string // likewise, for IPv6
	client *process
	on     *dock // nil: containerd
}

// clientResult is what both kinds of clients report.
type clientResult struct {
	Requests     uint64  `json:"requests"`
	Acknowledged uint64  `json:"acknowledged"`
	Errors       uint64  `json:"errors"`
	Error        string  `json:"error"`
	Consistent   bool    `json:"consistent"`
	LongestGapMS float64 `json:"longest_gap_ms"`
}

// serverFlags of the workload.
type serverFlags struct {
	memory    int // MiB that do not compress
	dirty     int // pages a second
	files     int // KiB of random content in the RW layer before it starts
	network   testbed.Network
	noListen  bool
	listen    string
	appending bool // a second process appends numbers to /data/appended
	noClient  bool
	script    string // run first
	kind      string // of memory; "" is private
}

// runServer starts the test program in a container on h, and a client for it.
func runServer(t *testing.T, h *testbed.Host, id string, f serverFlags) *subject {
	t.Helper()
	if f.network == "" {
		f.network = testbed.NetworkCNI
	}
	listen := ":7000"
	if f.listen != "" {
		listen = f.listen
	}
	if f.noListen {
		listen = ""
	}
	script := f.script
	if f.files > 0 {
		script += fmt.Sprintf("head -c %d /dev/urandom >/data/ballast\n", f.files<<10)
	}
	if f.appending {
		script += "(i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done >>/data/appended) &\n"
	}
	if f.kind == "" {
		f.kind = "private"
	}
	script += fmt.Sprintf("exec workload server --listen=%s --memory-kind "+f.kind+" --memory-mib %d --compressible 0 --dirty-pages-per-sec %d", listen, f.memory, f.dirty)
	var s *subject
	if d := dockOf(h); d != nil {
		s = runDocked(t, d, h, id, script, d.newAddress())
	} else {
		s = runContainer(t, h, testbed.ContainerSpec{
			ID: id, Image: "testbed/tools:latest", Network: f.network, Args: []string{"sh", "-euc", script},
		})
	}
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, h, id)) > 1 })
	if s.addr != "" && !f.noListen {
		s.addr += ":7000"
		if s.addr6 != "" {
			s.addr6 = "[" + s.addr6 + "]:7000"
		}
		if !f.noClient {
			s.connect(t)
		}
	}
	return s
}

// runContainer starts a container on h that is removed from wherever it is at the test's end.
func runContainer(t *testing.T, h *testbed.Host, spec testbed.ContainerSpec) *subject {
	t.Helper()
	t.Cleanup(func() { purge(t, spec.ID) })
	if spec.Network == testbed.NetworkCNI && spec.IP == "" && len(spec.Confs) == 0 {
		spec.IP = newAddress()
	}
	c, err := h.RunContainer(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	s := &subject{id: spec.ID}
	if c.Addr.IsValid() {
		s.addr, s.addr6 = c.Addr.String(), c.Addr6.String()
	}
	return s
}

// lastAddress counts the addresses of containers. No two have the same in one run: hosts give addresses out without
// knowing which ones moved elsewhere, and neighbours remember them for a while.
var lastAddress atomic.Int32

func newAddress() string { return newAddressAt(hostA) }

// newAddressAt is one in the network of a host's testbed.
func newAddressAt(h *testbed.Host) string {
	const perHost, first = 240, 10 // what a host's range holds, see testbed.containerRange
	n := int(lastAddress.Add(1)) - 1
	network := h.Addr().As4()
	return netip.AddrFrom4([4]byte{network[0], network[1], byte(1 + n/perHost), byte(first + n%perHost)}).String()
}

// purge removes a container and all that belongs to it from all hosts. Tests assert before that what ought to be gone is.
func purge(t *testing.T, id string) {
	for _, h := range bed.Hosts() {
		purgeAt(t, h, id)
	}
}

func purgeAt(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	if out, err := try(h, "sh", "-c", `
		ctr tasks delete --force "$1" >/dev/null 2>&1
		[ -z "$(ctr containers ls -q "id==$1")" ] || ctr containers delete "$1"`, "sh", id); err != nil {
		t.Errorf("%s: remove container %s: %v\n%s", h.Name, id, err, out)
	}
	netns := "/run/netns/" + id
	if _, err := os.Stat(h.Path(netns)); err == nil {
		if out, err := try(h, child.DetachCommand(child.Attachment{ID: id, Netns: netns})...); err != nil {
			t.Logf("%s: detach %s: %v\n%s", h.Name, id, err, out)
		}
		if out, err := try(h, "ip", "netns", "delete", id); err != nil {
			t.Errorf("%s: delete the network namespace of %s: %v\n%s", h.Name, id, err, out)
		}
	}
	_, _ = try(h, "rm", "-f", "/var/log/"+id+".log")
}

// clients is the host of the container's clients.
func (s *subject) clients() *testbed.Host {
	if s.on != nil {
		return s.on.bed.Host("c")
	}
	return hostC
}

// connect starts the client, which goes on until finish.
func (s *subject) connect(t *testing.T) {
	t.Helper()
	eventually(t, soon, s.addr+" is listened on", func() bool {
		_, err := try(s.clients(), "workload", "client", "--addr", s.addr, "--duration", "1ms", "--timeout", "5s")
		return err == nil
	})
	s.client = start(t, s.clients(), "workload", "client", "--addr", s.addr, "--duration", "0", "--report", "50ms", "--verify", "--timeout", "60s")
	s.progressing(t)
}

func (s *subject) last() (r clientResult) {
	all := lines(s.client.stdout.String())
	for _, l := range slices.Backward(all) {
		if json.Unmarshal([]byte(l), &r) == nil {
			return r
		}
	}
	return r
}

// progressing checks that the client still gets answers.
func (s *subject) progressing(t *testing.T) {
	t.Helper()
	if s.client == nil {
		return
	}
	before := s.last().Requests
	ok := within(later, func() bool { return s.client.ended() || s.last().Requests > before+20 })
	if !ok || s.client.ended() {
		s.examine(t)
		t.Fatalf("the client of %s gets no answers any more\n%s\n%s", s.id, clip(s.client.stdout.String()), s.client.stderr.String())
	}
}

// examine shows where a container is whose client is lost.
func (s *subject) examine(t *testing.T) {
	if s.on != nil {
		for _, h := range s.on.bed.Hosts() {
			out, _ := try(h, "sh", "-c", `date +%T.%N; docker ps -a; pid=$(docker inspect --format '{{.State.Pid}}' "$1") && nsenter --net="/proc/$pid/ns/net" sh -c 'ss -tanoe; nft list tables; ip addr'; tail -20 /var/log/dockerd.log`, "sh", s.id)
			t.Logf("%s:\n%s", h.Name, out)
		}
		return
	}
	for _, h := range []*testbed.Host{hostA, hostB, hostD} {
		if _, err := os.Stat(h.Path("/run/netns/" + s.id)); err != nil {
			continue
		}
		out, _ := try(h, "sh", "-c", `date +%T.%N; ctr tasks ls | grep "^$1 "; ip netns exec "$1" ss -tanoe; ip netns exec "$1" nft list ruleset; grep -v "^tick" "/var/log/$1.log"; tail -2 "/var/log/$1.log"`, "sh", s.id)
		t.Logf("%s:\n%s", h.Name, out)
	}
}

// finish ends the client and checks what it saw: no error, every answer right, the server's memory whole.
func (s *subject) finish(t *testing.T) clientResult {
	t.Helper()
	if s.client == nil {
		return clientResult{}
	}
	s.client.signal(t, syscall.SIGINT)
	code := s.client.wait(t, later)
	r := s.last()
	if code != 0 {
		t.Errorf("the client of %s ends with status %d: %+v\n%s", s.id, code, r, s.client.stderr.String())
	}
	s.client = nil
	return r
}

// ticks are the numbers that the container printed, in the order in which they are in the host's log.
func ticks(t *testing.T, h *testbed.Host, id string) []int {
	t.Helper()
	if dockOf(h) != nil {
		return dockTicks(t, h, id)
	}
	text, err := os.ReadFile(h.Path("/var/log/" + id + ".log"))
	if err != nil {
		return nil
	}
	var all []int
	for _, l := range strings.SplitAfter(string(text), "\n") {
		if !strings.HasSuffix(l, "\n") {
			break // being written
		}
		all = appendTick(t, all, h, id, l)
	}
	return all
}

// appendTick reads a line of a container's log.
func appendTick(t *testing.T, all []int, h *testbed.Host, id, line string) []int {
	t.Helper()
	if f := strings.Fields(line); len(f) == 3 && f[0] == "tick" {
		if n, err := strconv.Atoi(f[1]); err == nil {
			return append(all, n)
		}
	}
	t.Errorf("%s: the log of %s has the line %q", h.Name, id, line)
	return all
}

// assertOutputWhole checks that no line of the output is missing or there twice in the hosts' logs taken together, and
// that the output goes on at h.
func assertOutputWhole(t *testing.T, id string, h *testbed.Host) {
	t.Helper()
	before := len(ticks(t, h, id))
	eventually(t, soon, "the container's output goes on at "+h.Name, func() bool { return len(ticks(t, h, id)) > before+2 })
	var all []int
	for _, h := range beside(h) {
		all = append(all, ticks(t, h, id)...)
	}
	slices.Sort(all)
	for i, n := range all {
		if n != i+1 {
			t.Errorf("the output of %s is not whole: line %d has the number %d", id, i+1, n)
			return
		}
	}
}

// status is what the engine says of the task, "" when there is none.
func status(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	if dockOf(h) != nil {
		return dockStatus(t, h, id)
	}
	return taskStatus(t, h, id)
}

// taskStatus is what containerd says of a container.
func taskStatus(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	out, err := try(h, "ctr", "tasks", "ls")
	if err != nil {
		t.Errorf("%s: list tasks: %v\n%s", h.Name, err, out)
	}
	for _, l := range lines(out) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

// initPid is the pid of the container's first process in the host.
func initPid(t *testing.T, h *testbed.Host, id string) int {
	t.Helper()
	if dockOf(h) != nil {
		return dockerInspect(t, h, id).State.Pid
	}
	for _, l := range lines(run(t, h, "ctr", "tasks", "ls")) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == id {
			pid, _ := strconv.Atoi(f[1])
			return pid
		}
	}
	t.Fatalf("%s: container %s has no task", h.Name, id)
	return 0
}

// rootOf is where the machine finds the root directory of a running container.
func rootOf(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	return h.Path(fmt.Sprintf("/proc/%d/root", initPid(t, h, id)))
}

// upperOf is where the machine finds the RW layer of a container.
func upperOf(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	mounts := run(t, h, "ctr", "snapshots", "--snapshotter", "overlayfs", "mounts", "/none", id)
	_, after, found := strings.Cut(mounts, "upperdir=")
	path, _, _ := strings.Cut(after, ",")
	if !found {
		t.Fatalf("%s: no upper directory in %q", h.Name, mounts)
	}
	return h.Path(strings.TrimSpace(path))
}

// assertMoved checks that the container runs at to, under its new id, and that nothing of it is left at from.
func (s *subject) assertMoved(t *testing.T, from, to *testbed.Host) {
	t.Helper()
	if got := status(t, to, s.id); got != "RUNNING" {
		t.Errorf("%s: container %s is %q", to.Name, s.id, got)
	}
	s.progressing(t)
	if s.on != nil {
		assertPolicy(t, to, s.id)
	}
	assertUnlocked(t, to, s.id)
	assertClean(t, from, s.id)
	assertNothingUnderWay(t, from, sendDir(s.id))
}

// assertStayed checks that the container runs on at h as if nothing had happened, and that the other host has nothing of
// it.
func (s *subject) assertStayed(t *testing.T, h, other *testbed.Host) {
	t.Helper()
	if got := status(t, h, s.id); got != "RUNNING" {
		t.Errorf("%s: container %s is %q", h.Name, s.id, got)
	}
	s.progressing(t)
	if len(ticks(t, h, s.id)) > 0 {
		assertOutputWhole(t, s.id, h)
	}
	if s.on != nil {
		assertPolicy(t, h, s.id)
	}
	assertUnlocked(t, h, s.id)
	assertNothingUnderWay(t, h, sendDir(s.id))
	assertClean(t, other, s.id)
}

// assertUnlocked checks that no rule of ours is left in the container's network.
func assertUnlocked(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	if dockOf(h) != nil {
		assertUnlockedDock(t, h, id)
		return
	}
	if _, err := os.Stat(h.Path("/run/netns/" + id)); err != nil {
		return
	}
	var rules string
	if !within(soon, func() bool {
		rules = run(t, h, "ip", "netns", "exec", id, "nft", "list", "ruleset")
		return rules == ""
	}) {
		t.Errorf("%s: the network of %s is left with rules\n%s", h.Name, id, rules)
	}
}

// assertNothingUnderWay checks that an agent's run directory holds no stage, no configuration and no lock.
func assertNothingUnderWay(t *testing.T, h *testbed.Host, dir string) {
	t.Helper()
	var left []string
	if !within(soon, func() bool {
		left = leftIn(h, filepath.Join(dir, "run"))
		return len(left) == 0
	}) {
		t.Errorf("%s: %s/run is left with %v", h.Name, dir, left)
	}
}

func leftIn(h *testbed.Host, dir string) (left []string) {
	_ = filepath.WalkDir(h.Path(dir), func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(h.Path(dir), p)
		if err == nil && rel != "." && rel != "lock" && rel != "criu" {
			left = append(left, rel)
		}
		return nil
	})
	mounts, _ := os.ReadFile(h.Path("/proc/1/mounts"))
	for _, l := range lines(string(mounts)) {
		if strings.Contains(l, " "+dir+"/") {
			left = append(left, "mount "+l)
		}
	}
	return left
}

// assertClean checks that a host has nothing of a container.
func assertClean(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	var left []string
	if !within(soon, func() bool { left = leftOf(h, id); return len(left) == 0 }) {
		t.Errorf("%s is left with things of %s:\n%s", h.Name, id, strings.Join(left, "\n"))
	}
}

// leftovers looks for a container in every place; each line of its output is something that is left.
const leftovers = `
id=$1
ctr containers ls -q "id==$id" | sed 's/^/container record /'
ctr tasks ls -q | grep -x "$id" | sed 's/^/task /'
ctr snapshots --snapshotter overlayfs ls | awk -v id="$id" '$1 == id { print "snapshot " $1 }'
ls -d "/run/netns/$id" "/run/containerd/io.containerd.runtime.v2.task/default/$id" "/run/containerd/runc/default/$id" \
	"/var/lib/cni/cache/results/mt-$id-eth0" "/var/lib/migrate/netns/default-$id" 2>/dev/null
for net in mt nat nat1 nat2 nat3 ctr; do ls -d "/var/lib/cni/results/$net-$id-eth"[01] "/var/lib/cni/results/$net-default-$id-eth0" 2>/dev/null; done
grep -lE "^(default-)?$id[[:space:]]*\$" /var/lib/cni/networks/*/* 2>/dev/null | sed 's/^/address reservation /'
find /sys/fs/cgroup -depth -type d -name "$id" | sed 's/^/cgroup /'
pgrep -a -f "(^|[ /])$id( |$)" | grep -v "migrate send $id" | sed 's/^/process /'
grep "/$id/" /proc/mounts | sed 's/^/mount /'
true
`

func leftOf(h *testbed.Host, id string) []string {
	if dockOf(h) != nil {
		return leftOfDock(h, id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), later)
	defer cancel()
	script := h.Path("/run/leftovers.sh")
	if _, err := os.Stat(script); err != nil {
		_ = os.WriteFile(script, []byte(leftovers), 0o755)
	}
	// the id is not on the command line, where the search for processes would find it
	cmd := h.Command(ctx, "sh", "-c", `read -r id; set -- "$id"; . /run/leftovers.sh`)
	cmd.Stdin = strings.NewReader(id + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return []string{fmt.Sprintf("%v: %s", err, out)}
	}
	return lines(string(out))
}

// settle gives what the destination does after its last word a moment.
const settle = 300 * time.Millisecond
