package scenarios

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"migrate/internal/preflight"
	"migrate/testbed"
)

// TestCheckHost looks at a host alone, with and without what it needs. No other test uses host d meanwhile.
func TestCheckHost(t *testing.T) {
	check(t, hostD, 0, "--canary")
	for _, test := range []struct {
		name, tool, script string // in the tool's place, "" for nothing
		want               int
		codes              []string
	}{
		{"no CRIU", "criu", "", 7, []string{"criu-missing"}},
		{"old CRIU", "criu", `case "$1" in --version) echo "Version: 4.1" ;; check) echo "Error: no such feature"; exit 1 ;; esac`, 3, []string{"criu-old", "criu-check"}},
		{"no runc", "runc", "", 3, []string{"runc-missing"}},
		{"old runc", "runc", `echo "runc version 1.0.3"`, 3, []string{"runc-old"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			replaceTool(t, hostD, test.tool, test.script)
			rep := check(t, hostD, test.want)
			for _, code := range test.codes {
				if f := finding(t, rep, code); f.Remedy == "" || f.State != "" {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}

// replaceTool puts a script in a tool's place until the test ends, or nothing.
func replaceTool(t *testing.T, h *testbed.Host, tool, script string) {
	t.Helper()
	for _, dir := range []string{"/usr/local/sbin/", "/usr/sbin/"} {
		at := h.Path(dir + tool)
		if err := os.Rename(at, at+".hidden"); os.IsNotExist(err) {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Rename(at+".hidden", at) })
		if script == "" {
			continue
		}
		if err := os.WriteFile(at, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCheckHostNetwork: connections of a container on the host's network cannot be kept.
func TestCheckHostNetwork(t *testing.T) {
	t.Parallel()
	const id = "check-host-network"
	to := startAgent(t, hostB)
	s := runServer(t, hostA, id, serverFlags{
		memory: 1, network: testbed.NetworkHost, noClient: true, listen: "127.0.0.1:7093",
		script: "(sleep 1; exec workload client --addr 127.0.0.1:7093 --duration 0 --timeout 60s >/dev/null) &\n",
	})
	eventually(t, soon, "the connection is there", func() bool {
		return strings.Contains(run(t, hostA, "ss", "-tn", "state", "established", "dst", "127.0.0.1:7093"), "7093")
	})
	if f := finding(t, check(t, hostA, 3, id), "tcp-lost"); !strings.Contains(f.Remedy, "--tcp close") || f.State != preflight.StillRunning {
		t.Errorf("%+v", f)
	}
	check(t, hostA, 0, id, "--tcp", "close")
	send(t, hostA, id, to).failed(t, 3, "tcp-lost", "--tcp close", "never stopped")
	s.assertStayed(t, hostA, hostB)
	engineFails(t, id)
}

// TestCheckCapability looks at a container of another user without the capability for that.
func TestCheckCapability(t *testing.T) {
	t.Parallel()
	const id = "check-capability"
	runContainer(t, hostA, testbed.ContainerSpec{ID: id, Image: "testbed/tools:latest", Args: []string{"sleep", "infinity"}, Flags: []string{"--user", "1000"}})
	out := run(t, hostA, "setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource", "migrate", "check", id)
	for _, want := range []string{"degrades: cap-sys-resource", "user 1000", "all capabilities", preflight.StillRunning} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	check(t, hostA, 0, id)
}

// TestCheckCPU has a source whose CPU has a feature that the destination's lacks.
func TestCheckCPU(t *testing.T) {
	t.Parallel()
	const id = "check-cpu"
	s := runServer(t, hostA, id, serverFlags{memory: 1, noClient: true})
	to := startAgent(t, hostB)
	const script = `sed '/^flags/s/$/ avx10_9/' /proc/cpuinfo >/run/scn/cpuinfo
		mount --bind /run/scn/cpuinfo /proc/cpuinfo
		exec migrate check "$1" "$2" --token "$3" --state-dir "$4/state" --run-dir "$4/run"`
	out, err := try(hostA, "unshare", "-m", "sh", "-euc", script, "sh", id, to.addr(), to.token(t), sendDir(id))
	if exitCode(err) != 4 || !strings.Contains(out, "blocks: cpu-features") || !strings.Contains(out, "avx10_9") {
		t.Errorf("exit status %d\n%s", exitCode(err), out)
	}
	s.assertStayed(t, hostA, hostB)
}

// TestCheckCgroups has a destination with the other version of cgroups, and without a controller.
func TestCheckCgroups(t *testing.T) {
	t.Parallel()
	const id = "check-cgroups"
	s := mounted(t, hostA, id, "", "--memory-limit", "268435456")
	to := &agent{host: hostB, port: int(lastPort.Add(1))}
	to.dir = fmt.Sprintf("/run/scn/recv-%d", to.port)
	to.args = []string{"unshare", "-m", "sh", "-euc", `mkdir -p "$1/cgroup"; echo cpu pids >"$1/cgroup/cgroup.controllers"
		mount --bind "$1/cgroup" /sys/fs/cgroup
		exec migrate recv --listen "$2" --state-dir "$1/state" --run-dir "$1/run" --log-dir "$1/log"`, "sh", to.dir, to.listen()}
	to.start(t)
	dir := sendDir(id)
	rep := check(t, hostA, 0, id, to.addr(), "--token", to.token(t), "--state-dir", dir+"/state", "--run-dir", dir+"/run")
	for code, detail := range map[string]string{"cgroup-version": "v1 here, v2 there", "cgroup-controller": "memory"} {
		if f := finding(t, rep, code); f.Severity != preflight.Degrades || f.Side != preflight.Destination || !strings.Contains(f.Reason, detail) {
			t.Errorf("%+v", f)
		}
	}
	s.assertStayed(t, hostA, hostB)
}

// TestFileChanged: an open file on a mount that the destination has is another one there. CRIU notices, what it says is explained, and the
// container runs on.
func TestFileChanged(t *testing.T) {
	t.Parallel()
	const id = "check-file-changed"
	dir := hostDir(t, hostA, "/srv/"+id)
	hostDir(t, hostB, dir)
	writeAt(t, hostA, dir+"/file", "as it was\n")
	writeAt(t, hostB, dir+"/file", "as it is there\n")
	s := mounted(t, hostA, id, "exec 9</data/file", bind(dir, "/data", "rw")...)
	to := startAgent(t, hostB, "--allow-mount", "/srv")
	send(t, hostA, id, to).failed(t, 8, "has bad size", "same content on both hosts", "runs on at the source")
	s.assertStayed(t, hostA, hostB)
	assertNothingUnderWay(t, hostB, to.dir)
}

// checkSpace: a check knows of the room that is missing.
func checkSpace(t *testing.T, h *testbed.Host, s *subject, to *agent) {
	t.Helper()
	dir := sendDir(s.id)
	rep := check(t, h, 9, s.id, to.addr(), "--token", to.token(t), "--state-dir", dir+"/state", "--run-dir", dir+"/run")
	if f := finding(t, rep, "disk"); f.Side != preflight.Destination || !strings.Contains(f.Reason, "MiB are free") {
		t.Errorf("%+v", f)
	}
}

// engineFailsFull has the engine's own tool notice that room is missing when it runs out of it.
func engineFailsFull(t *testing.T, r *rig, s *subject) {
	t.Helper()
	full := "/run/scn/full-" + s.id
	shell(t, r.a, `mkdir -p "$1"; mount -t tmpfs -o size=256k full "$1"`, full)
	defer shell(t, r.a, `umount "$1"; rmdir "$1"`, full)
	if out, err := r.ownCheckpoint(r.a, s.id, full); err == nil {
		t.Errorf("the engine's own tool needs no room:\n%s", out)
	}
	if got := status(t, r.a, s.id); got != "RUNNING" {
		t.Errorf("the container is %q", got)
	}
}
