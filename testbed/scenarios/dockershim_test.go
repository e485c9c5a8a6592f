package scenarios

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"migrate/testbed"
)

// TestDockerShim moves what Docker 28.5 cannot restore by itself, with the shim of this project on all hosts.
func TestDockerShim(t *testing.T) {
	t.Parallel()
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		testDockerRedis(t, dock28shim)
	})
	t.Run("networks", func(t *testing.T) {
		t.Parallel()
		testDockerNetworks(t, dock28shim)
	})
	t.Run("check", func(t *testing.T) {
		t.Parallel()
		a, b := dock28shim.up(t)
		const name = "dock-checked"
		dockerRun(t, dock28shim, a, name, "testbed/tools:latest", "workload", "server", "--listen=")
		to := startAgent(t, b)
		for _, argv := range [][]string{{"migrate", "check", "--engine", "docker"}, {"migrate", "check", name, to.addr(), "--token", to.token(t), "--state-dir", sendDir(name) + "/state"}} {
			if out, err := try(a, argv...); err != nil || !strings.Contains(out, "on networks of any kind, through the shim io.containerd.migrate.v1") {
				t.Errorf("%v: %v\n%s", argv, err, out)
			}
		}
	})
}

// TestShimByName runs containers of both engines with the shim under its own name, and moves them.
func TestShimByName(t *testing.T) {
	t.Parallel()
	a, b := dock28shim.up(t)
	const runtime, at = "io.containerd.migrate.v1", "/usr/local/bin/containerd-shim-migrate-v1"
	run(t, a, "ln", "-sf", testbed.StockShim, at)
	t.Run("docker", func(t *testing.T) {
		const name = "by-name-docker"
		dockerRun(t, dock28shim, a, name, "--runtime", runtime, "--network", testbed.DockerNetwork, "testbed/tools:latest", "workload", "server", "--listen=", "--memory-mib", "4")
		run(t, a, "docker", "exec", name, "true")
		run(t, a, "docker", "restart", "--time", "0", name)
		to := startAgent(t, b)
		send(t, a, name, to, "--engine", "docker").failed(t, 4, runtime, "install containerd-shim-migrate-v1", "never stopped")
		run(t, b, "ln", "-sf", testbed.StockShim, at)
		send(t, a, name, to, "--json", "--engine", "docker").moved(t)
		assertDocked(t, name, b, a)
		if got := run(t, b, "docker", "inspect", "--format", "{{.HostConfig.Runtime}}", name); got != runtime {
			t.Errorf("the container has the runtime %q", got)
		}
		run(t, b, "docker", "exec", name, "true")
		run(t, b, "docker", "restart", "--time", "0", name)
		assertNothingUnderWay(t, b, to.dir)
	})
	t.Run("containerd", func(t *testing.T) {
		const name = "by-name"
		t.Cleanup(func() {
			for _, h := range []*testbed.Host{a, b} {
				_, _ = try(h, "sh", "-c", `ctr tasks delete --force "$1"; ctr containers delete "$1"`, "sh", name)
			}
		})
		run(t, a, "sh", "-c", `docker save testbed/tools:latest | ctr images import --base-name testbed/tools --local -`)
		image := strings.Fields(run(t, a, "ctr", "images", "ls", "-q"))[0]
		run(t, a, "ctr", "run", "--detach", "--runtime", runtime, "--log-uri", "file:///var/log/"+name, image, name, "workload", "server", "--listen=", "--memory-mib", "4")
		to := startAgent(t, b)
		send(t, a, name, to, "--json", "--engine", "containerd").moved(t)
		if got := taskStatus(t, b, name); got != "RUNNING" {
			t.Errorf("the container is %q at the destination", got)
		}
		if got := run(t, b, "ctr", "containers", "info", name); !strings.Contains(got, runtime) {
			t.Errorf("the container has another runtime: %s", got)
		}
		run(t, b, "ctr", "tasks", "exec", "--exec-id", "e", name, "true")
		run(t, b, "ctr", "tasks", "kill", "--signal", "KILL", name)
		eventually(t, soon, "the container has stopped", func() bool { return status(t, b, name) != "RUNNING" })
		assertNothingUnderWay(t, b, to.dir)
	})
}

// shimBundles is where containerd keeps the bundles of Docker's tasks.
const shimBundles = "/run/containerd/io.containerd.runtime.v2.task/moby/"

// restoring is what the shim notes of a restore.
type restoring struct {
	id                  string
	Init, CRIU, Runtime struct{ Pid int }
}

// restoringAt is the restore that is held at a host, nil if there is none.
func restoringAt(h *testbed.Host) *restoring {
	notes, _ := filepath.Glob(h.Path(shimBundles + "*/migrate/restore.json"))
	for _, n := range notes {
		r := &restoring{id: filepath.Base(filepath.Dir(filepath.Dir(n)))}
		if text, err := os.ReadFile(n); err == nil && json.Unmarshal(text, r) == nil && r.Init.Pid != 0 {
			return r
		}
	}
	return nil
}

// kill ends one of a restore's processes.
func (r *restoring) kill(t *testing.T, h *testbed.Host, who string) {
	t.Helper()
	pid := map[string]int{"first process": r.Init.Pid, "CRIU": r.CRIU.Pid, "runc": r.Runtime.Pid}[who]
	if who == "shim" {
		shell(t, h, `kill -9 $(pgrep -f "containerd-shim-.* -id $1")`, r.id)
		return
	}
	run(t, h, "kill", "-9", fmt.Sprint(pid))
}

// TestDockerShimFaults kills what a restore needs while it is held, before Docker has connected the network and before GO: the container runs
// on at the source, and at the destination nothing is left that would be in the way of the next one. It does not run beside others: containerd
// gives the shim 5 s to clear away what a shim left that was killed, and then nobody does. Unless all failure tests are to run on Docker it is a sample.
func TestDockerShimFaults(t *testing.T) {
	sample := map[string]bool{"shim before GO": true, "CRIU before network": true, "first process before GO": true}
	a, _ := dock28shim.up(t)
	c := dock28shim.bed.Host("c") // other tests restore at b meanwhile
	n := 80
	for _, who := range []string{"shim", "CRIU", "first process", "runc"} {
		for point, fails := range map[string]func(*testing.T, *testbed.Host, *agent, *migration, string){"network": killBeforeNetwork, "GO": killBeforeGo} {
			n++
			name := who + " before " + point
			if !allOnDocker() && !sample[name] {
				continue
			}
			t.Run(name, func(t *testing.T) {
				testShimFault(t, a, c, n, func(to *agent, m *migration) { fails(t, c, to, m, who) })
			})
		}
	}
	t.Run("agent before GO", func(t *testing.T) {
		testShimFault(t, a, c, n+1, func(to *agent, m *migration) {
			awaitGate(t, to, m)
			to.signal(t, syscall.SIGKILL)
			to.wait(t, soon)
			to.start(t) // takes away what is left
			m.signal(t, syscall.SIGCONT)
		})
	})
}

func testShimFault(t *testing.T, a, c *testbed.Host, n int, fail func(*agent, *migration)) {
	t.Helper()
	name := fmt.Sprintf("dock-shim-%d", n)
	r := dock28shim.runRedis(t, a, name, dock28shim.address(n), "--restart", "always")
	pid := dockerInspect(t, a, name).State.Pid
	t.Cleanup(func() {
		if t.Failed() {
			logConnections(t, name, a, c)
		}
	})
	to := startAgent(t, c)
	stayed := fmt.Sprintf("%s/%s.stayed", hitDir, name)
	hit := fault(t, c, "restore", atRestore, fmt.Sprintf("[ -e '%[1]s' ] || { : >'%[1]s'; sleep 2 3<&-; }", stayed))
	m := send(t, a, name, to)
	eventually(t, later, "the migration is in phase restore", func() bool { return hit() || m.ended() })
	fail(to, m)
	if code := m.wait(t, later); code == 0 || !strings.Contains(m.stderr.String(), "runs on at the source") {
		t.Errorf("exit status %d\n%s", code, clip(m.stderr.String()))
	}
	r.goesOn(t)
	if s := assertDocked(t, name, a, c); s.State.Pid != pid || s.HostConfig.RestartPolicy.Name != "always" {
		t.Errorf("the container at the source is now %+v", s)
	}
	assertNothingUnderWay(t, c, to.dir)
	assertNothingRestored(t, c)
	// and it can be moved there
	send(t, a, name, to, "--json").moved(t)
	r.goesOn(t)
	assertDocked(t, name, c, a)
	r.finish(t)
	run(t, c, "docker", "rm", "--force", name)
	run(t, c, "rm", "-f", stayed)
}

// logConnections shows how a container and its client are connected.
func logConnections(t *testing.T, name string, hosts ...*testbed.Host) {
	t.Helper()
	const look = `ss -tani; ip neigh; bridge fdb show | grep -v permanent
		pid=$(docker inspect --format '{{.State.Pid}}' "$1") && nsenter -t "$pid" -n sh -c 'ss -tani; ip -s link; ip neigh; nft list ruleset'`
	for _, h := range hosts {
		out, _ := try(h, "sh", "-c", look, "sh", name)
		t.Logf("%s:\n%s", h.Name, out)
	}
}

// killBeforeNetwork stops Docker's daemon while it waits for the task, and kills when the shim holds it.
func killBeforeNetwork(t *testing.T, c *testbed.Host, _ *agent, _ *migration, who string) {
	t.Helper()
	daemon := c.Daemons()["dockerd"]
	if err := syscall.Kill(daemon, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() { _ = syscall.Kill(daemon, syscall.SIGCONT) }
	defer goOn()
	eventually(t, later, "the shim holds the restore", func() bool { return restoringAt(c) != nil })
	r := restoringAt(c)
	r.kill(t, c, who)
	eventually(t, soon, "the held process is gone", func() bool { return !isAlive(c, r.Init.Pid) })
}

// isAlive tells a process from one that nobody has asked for.
func isAlive(h *testbed.Host, pid int) bool {
	state, err := try(h, "sh", "-c", `sed -n 's/^State:[[:space:]]*//p' /proc/$1/status`, "sh", fmt.Sprint(pid))
	return err == nil && state != "" && !strings.HasPrefix(state, "Z")
}

// killBeforeGo kills when the agent holds what is restored, and the source is about to say GO.
func killBeforeGo(t *testing.T, c *testbed.Host, to *agent, m *migration, who string) {
	t.Helper()
	awaitGate(t, to, m)
	r := restoringAt(c)
	r.kill(t, c, who)
	eventually(t, soon, "the held process is gone", func() bool { return !isAlive(c, r.Init.Pid) })
	m.signal(t, syscall.SIGCONT)
}

func awaitGate(t *testing.T, to *agent, m *migration) {
	t.Helper()
	m.signal(t, syscall.SIGSTOP)
	eventually(t, soon, "the destination holds the container", func() bool { return strings.Contains(to.stderr.String(), "msg=held") })
}

// assertNothingRestored checks that nothing is left at a host that has no container: no process, mount, directory, cgroup or address.
func assertNothingRestored(t *testing.T, h *testbed.Host) {
	t.Helper()
	const look = `set +e
		pgrep -a 'criu|runc|containerd-shim'
		grep -E 'criu-root|criu[.]cgyard|/io.containerd.runtime.v2.task/' /proc/mounts
		find /run/containerd/io.containerd.runtime.v2.task/moby /run/docker/runtime-runc/moby -mindepth 1 -maxdepth 1
		find /sys/fs/cgroup -path '*/docker/*' -type d
		docker network inspect --format '{{range .Containers}}{{.Name}}{{end}}' mt | grep .
		docker ps -aq
		true`
	var left string
	if !within(soon, func() bool { left = shell(t, h, look); return left == "" }) {
		t.Errorf("%s is left with\n%s", h.Name, left)
	}
}
