package scenarios

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"migrate/testbed"
)

// redisDock is a redis in Docker with a client on the segment.
type redisDock struct {
	d          *dock
	name, addr string
	writer     *process
	log        string
}

// runRedis starts redis on a, on the network that all hosts share, and a client on c that writes to it.
func runRedis(t *testing.T, a *testbed.Host, name, addr string, flags ...string) *redisDock {
	t.Helper()
	return dock26.runRedis(t, a, name, addr, flags...)
}

func (d *dock) runRedis(t *testing.T, a *testbed.Host, name, addr string, flags ...string) *redisDock {
	t.Helper()
	r := &redisDock{d: d, name: name, addr: addr, log: "/tmp/acked-" + name}
	args := append([]string{"--network", testbed.DockerNetwork, "--ip", addr}, flags...)
	dockerRun(t, d, a, name, append(args, "testbed/redis:latest")...)
	r.writer = start(t, d.bed.Host("c"), "sh", "-c", `until redis-cli -h "$1" ping >/dev/null 2>&1; do sleep 0.05; done
		exec workload rediswrite --addr "$1:6379" --log "$2" --duration 0 --timeout 60s`, "sh", addr, r.log)
	eventually(t, soon, "redis answers", r.ping)
	eventually(t, soon, "redis has keys", func() bool { return len(r.keys(t)) >= 3 })
	return r
}

func (r *redisDock) keys(t *testing.T) string {
	t.Helper()
	return run(t, r.d.bed.Host("c"), "redis-cli", "-h", r.addr, "dbsize")
}

// goesOn checks that the client's writes still arrive.
func (r *redisDock) goesOn(t *testing.T) {
	t.Helper()
	before := r.keys(t)
	eventually(t, soon, "redis takes writes", func() bool { return r.keys(t) != before })
}

// finish checks that the client's one connection lasted, and that nothing that redis acknowledged is lost.
func (r *redisDock) finish(t *testing.T) {
	t.Helper()
	if code := signalled(t, r.writer); code != 0 {
		t.Errorf("the writer ends with status %d\n%s", code, r.writer.stderr.String())
	}
	var wrote clientResult
	if err := json.Unmarshal([]byte(r.writer.stdout.String()), &wrote); err != nil {
		t.Fatalf("the writer's report: %v\n%s", err, r.writer.stdout.String())
	}
	t.Logf("longest gap %.0f ms, %d writes", wrote.LongestGapMS, wrote.Acknowledged)
	if out, err := try(r.d.bed.Host("c"), "workload", "redisverify", "--addr", r.addr+":6379", "--log", r.log); err != nil {
		t.Errorf("redis at the end: %v\n%s", err, out)
	}
}

func (d *dock) address(n int) string {
	return strings.TrimSuffix(d.bed.Host("a").Addr().String(), "0.11") + fmt.Sprintf("1.%d", n)
}

// TestDockerRedis moves a redis in Docker with a connected client there and back.
func TestDockerRedis(t *testing.T) {
	t.Parallel()
	testDockerRedis(t, dock26)
}

func testDockerRedis(t *testing.T, d *dock) {
	t.Helper()
	a, b := d.up(t)
	const name = "dock-redis"
	t.Cleanup(func() {
		for _, h := range d.bed.Hosts() {
			_, _ = try(h, "docker", "volume", "rm", "dock-redis-data")
		}
	})
	r := d.runRedis(t, a, name, d.address(60), "--restart", "always", "--publish", "16379:6379", "--label", "k=v",
		"--health-cmd", "redis-cli ping", "--health-interval", "1s", "--volume", "dock-redis-data:/keep")
	first := run(t, a, "docker", "logs", "--timestamps", name)
	run(t, a, "docker", "exec", "--user", "root", name, "sh", "-c", "echo kept >/keep/file && echo changed >/etc/changed")
	before := dockerInspect(t, a, name)
	agents := map[*testbed.Host]*agent{a: startAgent(t, a), b: startAgent(t, b)}
	from, to := a, b
	for range 2 {
		rep := send(t, from, name, agents[to], "--json", "--state-dir", agents[from].dir+"/state").moved(t)
		if rep.Connections < 1 {
			t.Errorf("%d connections moved, the writer had one", rep.Connections)
		}
		t.Logf("downtime %.0f ms: %+v", rep.DowntimeMS, rep.Downtime)
		r.goesOn(t)
		s := assertDocked(t, name, to, from)
		for what, pair := range map[string][2]string{
			"address":        {s.NetworkSettings.Networks[testbed.DockerNetwork].IPAddress, before.NetworkSettings.Networks[testbed.DockerNetwork].IPAddress},
			"MAC":            {s.NetworkSettings.Networks[testbed.DockerNetwork].MacAddress, before.NetworkSettings.Networks[testbed.DockerNetwork].MacAddress},
			"restart policy": {s.HostConfig.RestartPolicy.Name, "always"},
			"host name":      {s.Config.Hostname, before.Config.Hostname},
			"image":          {s.Config.Image, before.Config.Image},
			"label":          {run(t, to, "docker", "inspect", "--format", "{{.Config.Labels.k}}", name), "v"},
			"volume":         {run(t, to, "docker", "exec", name, "cat", "/keep/file"), "kept"},
			"changed file":   {run(t, to, "docker", "exec", name, "cat", "/etc/changed"), "changed"},
			"log":            {run(t, to, "docker", "logs", "--timestamps", name), first},
			"published port": {run(t, d.bed.Host("c"), "redis-cli", "-h", to.Addr().String(), "-p", "16379", "ping"), "PONG"},
		} {
			if pair[0] != pair[1] {
				t.Errorf("%s at %s is %q, want %q", what, to.Name, pair[0], pair[1])
			}
		}
		if s.State.Pid != rep.Pid {
			t.Errorf("the container has the pid %d, the report says %d", s.State.Pid, rep.Pid)
		}
		eventually(t, soon, "the container is healthy", func() bool {
			s := dockerInspect(t, to, name)
			return s != nil && s.State.Health != nil && s.State.Health.Status == "healthy"
		})
		from, to = to, from
	}
	r.finish(t)
	r.asAnyOther(t, from)
}

// asAnyOther checks that Docker has the container as any other, once it has moved.
func (r *redisDock) asAnyOther(t *testing.T, h *testbed.Host) {
	t.Helper()
	if n := len(lines(run(t, h, "docker", "top", r.name))); n < 2 {
		t.Errorf("docker top lists %d lines", n)
	}
	if use := run(t, h, "docker", "stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", r.name); strings.HasPrefix(use, "0 0B") || strings.HasPrefix(use, "--") {
		t.Errorf("docker stats says %q", use)
	}
	run(t, h, "docker", "restart", r.name)
	eventually(t, soon, "redis answers after a restart", r.ping)
	run(t, h, "sh", "-c", `kill -9 "$(docker inspect --format '{{.State.Pid}}' "$1")"`, "sh", r.name)
	eventually(t, soon, "Docker starts it again when it dies", r.ping)
	run(t, h, "docker", "stop", r.name)
	run(t, h, "docker", "start", r.name)
	eventually(t, soon, "redis answers after stop and start", r.ping)
	run(t, h, "docker", "rm", "--force", r.name)
}

func (r *redisDock) ping() bool {
	out, err := try(r.d.bed.Host("c"), "redis-cli", "-h", r.addr, "ping")
	return err == nil && out == "PONG"
}

// TestDockerFails lets restores fail: the container runs on at the source, whatever its restart policy, and --rm.
func TestDockerFails(t *testing.T) {
	t.Parallel()
	a, _ := dock26.up(t)
	c := dock26.bed.Host("c") // other tests restore at b meanwhile
	to := startAgent(t, c)
	for name, flag := range map[string]string{"dock-fails-always": "--restart=always", "dock-fails-rm": "--rm"} {
		t.Run(name, func(t *testing.T) {
			n := 61 + len(name)%2
			r := runRedis(t, a, name, dock26.address(n), flag)
			pid := dockerInspect(t, a, name).State.Pid
			hit := fault(t, c, "restore", atRestore, "exit 1")
			send(t, a, name, to).failed(t, 8, "runs on at the source")
			if !hit() {
				t.Error("the restore was not met")
			}
			r.goesOn(t)
			s := assertDocked(t, name, a, c)
			if s.State.Pid != pid || s.HostConfig.RestartPolicy.Name != strings.TrimPrefix(strings.Replace(flag, "--rm", "--restart=no", 1), "--restart=") {
				t.Errorf("the container at the source is now %+v", s)
			}
			assertNothingUnderWay(t, c, to.dir)
			r.finish(t)
		})
	}
}

// TestDockerNetworks moves containers of every kind of network on 26.1.
func TestDockerNetworks(t *testing.T) {
	t.Parallel()
	testDockerNetworks(t, dock26)
}

func testDockerNetworks(t *testing.T, d *dock) {
	t.Helper()
	a, b := d.up(t)
	to := startAgent(t, b)
	for name, c := range map[string]struct{ run, send []string }{
		"dock-bridge": {[]string{"--publish", "17000:7000"}, []string{"--tcp", "close"}},
		"dock-none":   {[]string{"--network", "none"}, nil},
		"dock-host":   {[]string{"--network", "host"}, nil},
		"dock-rm":     {[]string{"--rm"}, nil},
		"dock-tty":    {[]string{"--tty", "--interactive"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dockerRun(t, d, a, name, append(c.run, "testbed/tools:latest", "workload", "server", "--listen=", "--memory-mib", "4")...)
			checkDockerMove(t, name, a, b, to, c.send...)
		})
	}
	t.Run("joined", func(t *testing.T) { testDockerJoined(t, d, a, b, to) })
}

// checkDockerMove moves a container of the test program, which checks its own memory, and looks whether it goes on.
func checkDockerMove(t *testing.T, name string, a, b *testbed.Host, to *agent, flags ...string) {
	t.Helper()
	eventually(t, soon, "the container prints", func() bool { return dockerTicks(t, a, name) > 1 })
	send(t, a, name, to, append([]string{"--json"}, flags...)...).moved(t)
	assertDocked(t, name, b, a)
	before := dockerTicks(t, b, name)
	eventually(t, soon, "the container goes on printing", func() bool { return dockerTicks(t, b, name) > before+2 })
	assertNothingUnderWay(t, b, to.dir)
}

func dockerTicks(t *testing.T, h *testbed.Host, name string) int {
	t.Helper()
	n := 0
	for _, l := range lines(run(t, h, "docker", "logs", name)) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "tick" {
			if n++; f[1] != strconv.Itoa(n) {
				t.Errorf("%s: line %d of the log of %s is %q", h.Name, n, name, l)
			}
		}
	}
	return n
}

// testDockerJoined moves a container that uses the network of another one, which each host has.
func testDockerJoined(t *testing.T, d *dock, a, b *testbed.Host, to *agent) {
	t.Helper()
	const owner, name = "dock-owner", "dock-joined"
	for _, h := range []*testbed.Host{a, b} {
		dockerRun(t, d, h, owner, "testbed/tools:latest", "sleep", "1000")
	}
	dockerRun(t, d, a, name, "--network", "container:"+owner, "testbed/tools:latest", "workload", "server", "--listen=", "--memory-mib", "4")
	checkDockerMove(t, name, a, b, to)
}

// TestDockerEngines has a name in both engines, which is for the user to settle.
func TestDockerEngines(t *testing.T) {
	t.Parallel()
	a, b := dock26.up(t)
	const name = "dock-both"
	dockerRun(t, dock26, a, name, "--network", "host", "testbed/tools:latest", "sleep", "1000")
	run(t, a, "sh", "-c", `docker save testbed/tools:latest | ctr images import --base-name testbed/tools --local -`)
	run(t, a, "ctr", "run", "--detach", "--null-io", strings.Fields(run(t, a, "ctr", "images", "ls", "-q"))[0], name, "sleep", "1000")
	t.Cleanup(func() {
		_, _ = try(a, "sh", "-c", `ctr tasks delete --force "$1"; ctr containers delete "$1"`, "sh", name)
	})
	to := startAgent(t, b)
	send(t, a, name, to).failed(t, 2, "containerd has a container of that name, and Docker has one, too", "--engine docker")
	send(t, a, name, to, "--json", "--engine", "docker").moved(t)
	assertDocked(t, name, b, a)
	if got := taskStatus(t, a, name); got != "RUNNING" {
		t.Errorf("containerd's container is %q", got)
	}
}

// TestDockerExec has an exec session that does not end, which is not left behind unnoticed.
func TestDockerExec(t *testing.T) {
	t.Parallel()
	a, b := dock26.up(t)
	const name = "dock-exec"
	dockerRun(t, dock26, a, name, "testbed/tools:latest", "workload", "server", "--listen=")
	to := startAgent(t, b)
	run(t, a, "docker", "exec", "--detach", name, "sleep", "1000")
	send(t, a, name, to).failed(t, 3, "exec-session", "never stopped")
	assertDocked(t, name, a, b)
	run(t, a, "docker", "exec", name, "sh", "-c", `kill "$(pgrep -x sleep)"`)
	send(t, a, name, to, "--json").moved(t)
	assertDocked(t, name, b, a)
}

// TestDocker28 moves what version 28 can restore, and refuses the rest while it runs on.
func TestDocker28(t *testing.T) {
	t.Parallel()
	a, b := dock28.up(t)
	to := startAgent(t, b)
	t.Run("host", func(t *testing.T) {
		const name = "dock28-host"
		dockerRun(t, dock28, a, name, "--network", "host", "--restart", "unless-stopped", "testbed/tools:latest", "workload", "server", "--listen=", "--memory-mib", "4")
		checkDockerMove(t, name, a, b, to)
		if policy := dockerInspect(t, b, name).HostConfig.RestartPolicy.Name; policy != "unless-stopped" {
			t.Errorf("the restart policy is %q", policy)
		}
	})
	t.Run("joined", func(t *testing.T) { testDockerJoined(t, dock28, a, b, to) })
	for name, network := range map[string]string{"dock28-bridge": "bridge", "dock28-user": testbed.DockerNetwork, "dock28-none": "none"} {
		t.Run(network, func(t *testing.T) {
			dockerRun(t, dock28, a, name, "--network", network, "testbed/tools:latest", "workload", "server", "--listen=")
			pid := dockerInspect(t, a, name).State.Pid
			send(t, a, name, to).failed(t, 4, "never stopped", "Docker before 28", "--network host")
			if s := assertDocked(t, name, a, b); s.State.Pid != pid {
				t.Errorf("the container was started anew: %+v", s.State)
			}
			out, err := try(a, "migrate", "check", name, to.addr(), "--state-dir", sendDir(name)+"/state")
			if err == nil || !strings.Contains(out, "before 28") {
				t.Errorf("migrate check says %v\n%s", err, out)
			}
		})
	}
}

// suiteLimit bounds the engine's suite, several of which run beside everything else.
const suiteLimit = 8 * time.Minute

// TestDockerInsideAHost runs the engine's conformance suite on hosts of every generation. The host of 28.5 keeps its images in containerd.
func TestDockerInsideAHost(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "inhost-docker")
	build := exec.Command("go", "test", "-c", "-tags", "inhost", "-o", binary, "migrate/internal/engine/docker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of the engine: %v\n%s", err, out)
	}
	for _, d := range []*dock{dock26, dock28, dock28shim} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			d.up(t)
			h := d.bed.Hosts()[len(d.hosts)-1]
			if err := h.Install(binary, "inhost-docker"); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), suiteLimit)
			defer cancel()
			said, err := h.Command(ctx, "inhost-docker", "-test.v").CombinedOutput()
			if out := string(said); err != nil || strings.Contains(out, "--- SKIP") || !strings.Contains(out, "--- PASS") {
				t.Errorf("the tests of the engine: %v\n%s", err, out)
			}
		})
	}
}
