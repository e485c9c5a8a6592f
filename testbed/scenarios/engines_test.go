package scenarios

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"migrate/testbed"
)

// A rig is where a failure test has its container: hosts with one engine, of which c has the clients. What tests ask about containers they ask
// in the same words on either: status and ticks, assertMoved and assertStayed look which engine the host has.
type rig struct {
	a, b, c *testbed.Host
	last    *testbed.Host // has no containers of tests that run side by side
	dock    *dock         // nil: containerd
}

func onContainerd() *rig { return &rig{a: hostA, b: hostB, c: hostC, last: hostD} }

func (d *dock) rig(t *testing.T) *rig {
	t.Helper()
	a, b := d.up(t)
	return &rig{a, b, d.bed.Host("c"), d.bed.Host(d.hosts[len(d.hosts)-1]), d}
}

// engineAsked is the engine that all failure tests are to have their containers on: they hold for each. A run of all tests, which asks for none,
// has them on containerd, and a sample of them on Docker 26.1, see TestDockerFaults.
var engineAsked = os.Getenv("MIGRATE_SCENARIOS_ENGINE")

// What engineAsked may be, beside containerd.
const (
	onDocker26 = "docker"
	onDocker28 = "docker-28.5" // with the shim
)

// allOnDocker says whether failure tests of which there is a sample are to be run whole.
func allOnDocker() bool { return engineAsked == onDocker26 || engineAsked == onDocker28 }

// chosen is the rig of the engine that is asked for.
func chosen(t *testing.T) *rig {
	t.Helper()
	switch engineAsked {
	case "", "containerd":
		return onContainerd()
	case onDocker26:
		return dock26.rig(t)
	case onDocker28:
		return dock28shim.rig(t)
	default:
		t.Fatalf("MIGRATE_SCENARIOS_ENGINE=%s: known are containerd, %s and %s", engineAsked, onDocker26, onDocker28)
		return nil
	}
}

// daemon is the name of the engine's.
func (r *rig) daemon() string {
	if r.dock == nil {
		return "containerd"
	}
	return "dockerd"
}

// killDaemon ends the engine of a host.
func (r *rig) killDaemon(t *testing.T, h *testbed.Host) {
	t.Helper()
	if err := h.KillDaemon(context.Background(), r.daemon()); err != nil {
		t.Fatal(err)
	}
}

// startDaemon starts it again, without the old one's note of its pid: Docker's gives up if it finds a process of that number.
func (r *rig) startDaemon(t *testing.T, h *testbed.Host) {
	t.Helper()
	if err := os.Remove(h.Path("/run/docker.pid")); r.dock != nil && err != nil {
		t.Fatal(err)
	}
	if err := h.StartDaemon(context.Background(), r.daemon()); err != nil {
		t.Fatal(err)
	}
}

// ownCheckpoint has the engine's own tool checkpoint a container that is to run on, to a directory.
func (r *rig) ownCheckpoint(h *testbed.Host, id, dir string) (string, error) {
	if r.dock == nil {
		return try(h, "ctr", "tasks", "checkpoint", "--image-path", dir, "--work-path", dir, id)
	}
	return try(h, "docker", "checkpoint", "create", "--leave-running", "--checkpoint-dir", dir, id, "own")
}

// A binding is a directory or file of a host, and where a container has it.
type binding struct{ source, dest, mode string }

// mounted starts a container that binds something, and whose first process prints numbers, after a script.
func (r *rig) mounted(t *testing.T, id, script string, binds ...binding) *subject {
	t.Helper()
	var flags []string
	if r.dock == nil {
		for _, b := range binds {
			flags = append(flags, bind(b.source, b.dest, b.mode)...)
		}
		return mounted(t, r.a, id, script, flags...)
	}
	for _, b := range binds {
		flags = append(flags, "--volume", b.source+":"+b.dest+":"+b.mode)
	}
	s := runDocked(t, r.dock, r.a, id, script+mountedServer, "", flags...)
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, r.a, id)) > 1 })
	return s
}

// docks tells which testbed a host with Docker belongs to.
var docks sync.Map

// dockOf is nil for hosts whose containers are containerd's own.
func dockOf(h *testbed.Host) *dock {
	if d, ok := docks.Load(h); ok {
		return d.(*dock)
	}
	return nil
}

// beside are all hosts that a container may be on which is on one of them.
func beside(h *testbed.Host) []*testbed.Host {
	if d := dockOf(h); d != nil {
		return d.bed.Hosts()
	}
	return bed.Hosts()
}

// runtimeID is what runc calls a container.
func (r *rig) runtimeID(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	if r.dock == nil {
		return id
	}
	return run(t, h, "docker", "inspect", "--format", "{{.Id}}", id)
}

// purgeAt removes a container from a host.
func (r *rig) purgeAt(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	if r.dock == nil {
		purgeAt(t, h, id)
		return
	}
	_, _ = try(h, "docker", "rm", "--force", "--volumes", id)
}

// lastDocked counts the addresses of containers, beyond those that other tests choose themselves.
var lastDocked atomic.Int32

// policyOf is what containers of Docker are started with whose daemon may be killed: it would show if one were started anew.
const policyOf = "always"

// runDocked is runServer for Docker.
func runDocked(t *testing.T, d *dock, h *testbed.Host, id, script, address string, flags ...string) *subject {
	t.Helper()
	args := append([]string{"--restart", policyOf, "--stop-timeout", "1"}, flags...)
	if address != "" {
		args = append(args, "--network", testbed.DockerNetwork, "--ip", address)
	}
	dockerRun(t, d, h, id, append(args, "testbed/tools:latest", "sh", "-euc", script)...)
	return &subject{id: id, addr: address, on: d}
}

func (d *dock) newAddress() string { return d.address(100 + int(lastDocked.Add(1))%100) }

// dockStatus says in containerd's words what Docker says.
func dockStatus(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	s := dockerInspect(t, h, id)
	switch {
	case s == nil:
		return ""
	case s.State.Status == "exited":
		return "STOPPED"
	}
	return strings.ToUpper(s.State.Status)
}

// dockTicks are the numbers that a container printed, nil while its daemon is away.
func dockTicks(t *testing.T, h *testbed.Host, id string) (all []int) {
	t.Helper()
	out, err := try(h, "docker", "logs", id)
	if err != nil {
		return nil
	}
	for _, l := range lines(out) {
		all = appendTick(t, all, h, id, l)
	}
	return all
}

// assertPolicy checks what must not be lost of a container that was moved, or was about to be.
func assertPolicy(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	if s := dockerInspect(t, h, id); s == nil || s.HostConfig.RestartPolicy.Name != policyOf {
		t.Errorf("%s: container %s has lost its restart policy: %+v", h.Name, id, s)
	}
	if left, err := try(h, "sh", "-c", `ls /run/scn/*/state/shielded/ 2>/dev/null | grep "$(docker inspect --format '{{.Id}}' "$1")"`, "sh", id); err == nil {
		t.Errorf("%s: a note of the restart policy of %s is left: %s", h.Name, id, left)
	}
}

// dockLeftovers looks for what a host has of containers that Docker does not know, whatever their names were.
const dockLeftovers = `
known() { docker ps --all --quiet --no-trunc; }
have() {
	ls /var/lib/docker/containers /run/docker/runtime-runc/moby /run/containerd/io.containerd.runtime.v2.task/moby /var/lib/docker/image/overlay2/layerdb/mounts 2>/dev/null |
		grep -E '^[0-9a-f]{64}$'
	ctr --namespace moby containers ls -q
	ctr --namespace moby tasks ls -q
	sed -n 's|.* /var/lib/docker/containers/\([0-9a-f]*\)/.*|\1|p' /proc/mounts
	pgrep -a containerd-shim | sed -n 's/.*-namespace moby -id \([0-9a-f]*\).*/\1/p'
}
all=$(have | sort -u) # first: what is being made now is known afterwards
known >/run/known
for id in $all; do grep -q "$id" /run/known || echo "something of container $id"; done
for m in $(sed -n 's|.* /var/lib/docker/overlay2/\([0-9a-f]*\)/merged .*|\1|p' /proc/mounts); do
	grep -qs "$m" /var/lib/docker/image/overlay2/layerdb/mounts/*/mount-id || echo "a mount of $m"
done
true
`

// leftOfDock looks for a container in every place; each of its lines is something that is left.
func leftOfDock(h *testbed.Host, id string) []string {
	out, err := try(h, "sh", "-c", dockLeftovers+`docker ps --all --filter "name=^/$1\$" --format "container {{.Names}}"`, "sh", id)
	if err != nil {
		return []string{fmt.Sprintf("%v: %s", err, out)}
	}
	return lines(out)
}

// assertUnlockedDock checks that no rule of ours is left in a running container's network.
func assertUnlockedDock(t *testing.T, h *testbed.Host, id string) {
	t.Helper()
	var rules string
	if !within(soon, func() bool {
		s := dockerInspect(t, h, id)
		if s == nil || s.State.Pid == 0 {
			return false
		}
		rules, _ = try(h, "nsenter", "--net=/proc/"+strconv.Itoa(s.State.Pid)+"/ns/net", "nft", "list", "tables")
		return !strings.Contains(rules, "migrate")
	}) {
		t.Errorf("%s: the network of %s is left with rules\n%s", h.Name, id, rules)
	}
}
