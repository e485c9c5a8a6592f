package scenarios

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"migrate/internal/preflight"
	"migrate/migrate"
	"migrate/testbed"
)

// check runs `migrate check` and reads what it found.
func check(t *testing.T, h *testbed.Host, want int, args ...string) *migrate.CheckReport {
	t.Helper()
	out, err := h.Command(t.Context(), append([]string{"migrate", "check", "--json"}, args...)...).Output()
	if got := exitCode(err); got != want {
		t.Errorf("migrate check %v: exit status %d, want %d\n%s", args, got, want, out)
	}
	var rep migrate.CheckReport
	if err := json.Unmarshal(out, &rep); err != nil {
		t.Fatalf("migrate check %v: the report is no JSON: %v\n%s", args, err, out)
	}
	return &rep
}

// finding is the first one with a code.
func finding(t *testing.T, rep *migrate.CheckReport, code string) preflight.Finding {
	t.Helper()
	i := slices.IndexFunc(rep.Findings, func(f preflight.Finding) bool { return f.Code == code })
	if i < 0 {
		t.Fatalf("%s is not found, but %v", code, rep.Findings)
	}
	return rep.Findings[i]
}

// holding starts a container in which something is held, beside a program that counts aloud. before is run in it first.
func holding(t *testing.T, id, before string, kinds ...string) *subject {
	t.Helper()
	script := "mkdir -p /data\n"
	for _, kind := range kinds {
		script += fmt.Sprintf("mkdir /data/%[1]s\n(%[2]s cd /; exec workload hold --kind %[1]s --dir /data/%[1]s >/data/%[1]s.held 2>&1) &\n", kind, before)
	}
	return runServer(t, hostA, id, serverFlags{memory: 1, noClient: true, noListen: true, network: testbed.NetworkCNI, script: script})
}

// heldThing is what `workload hold` says.
type heldThing struct {
	FD  int `json:"fd"`
	Pid int `json:"pid"` // in the container
}

func held(t *testing.T, h *testbed.Host, id, kind string) (thing heldThing) {
	t.Helper()
	eventually(t, soon, id+" holds "+kind, func() bool {
		text, err := os.ReadFile(filepath.Join(rootOf(t, h, id), "data", kind+".held"))
		if err != nil || !strings.HasSuffix(string(text), "\n") {
			return false
		}
		if err := json.Unmarshal(text, &thing); err != nil {
			t.Fatalf("%s cannot hold %s: %s", id, kind, text)
		}
		return true
	})
	return thing
}

// TestCheckNamesCulprits has one container for each kind of thing that cannot be moved: it is named with process, descriptor, reason and
// remedy, send refuses before the container stops, and the container runs on. Of those with tool set the engine's own tool is tried too,
// which fails once the container stands still.
func TestCheckNamesCulprits(t *testing.T) {
	t.Parallel()
	to := startAgent(t, hostB)
	for _, test := range []struct {
		kind, code string
		tool       bool
	}{
		{"mptcp", "socket-mptcp", true}, {"vsock", "socket-family", true}, {"nl-waiting", "netlink-waiting", true}, {"in-flight", "tcp-waiting", true},
		{"udp-cork", "udp-corked", true}, {"unix-in-flight", "unix-waiting", true}, {"io_uring", "io-uring", true}, {"userfaultfd", "kernel-object", true},
		{"landlock", "kernel-object", true}, {"perf", "kernel-object", true}, {"seccomp-notify", "kernel-object", true}, {"pidfd-thread", "pidfd-thread", true}, {"memfd-secret", "secret-memory", true}, {"inotify", "fsnotify", true},
		{"mqueue", "file-outside", true}, {"pipe-packet", "pipe-packet", true}, {"ghost-large", "file-deleted-large", true}, {"traced", "traced", true},
		{"userns", "nested-namespace", true}, {"timens", "nested-namespace", true}, {"vfork", "vfork", false}, {"proc-dir", "file-proc", false}, {"lease", "lease", false},
	} {
		t.Run(test.kind, func(t *testing.T) {
			t.Parallel()
			id := "check-" + strings.ReplaceAll(test.kind, "_", "-")
			s := holding(t, id, "", test.kind)
			thing := held(t, hostA, id, test.kind)
			f := finding(t, check(t, hostA, 3, id), test.code)
			if f.Severity != preflight.Blocks || f.Thing.Pid == 0 || f.Reason == "" || f.Remedy == "" || f.State != preflight.StillRunning {
				t.Errorf("the finding is not complete: %+v", f)
			}
			// a child may be in a pid namespace of its own, or there may be a second descriptor
			if thing.FD >= 0 && (f.Thing.FD == nil || f.Thing.VPid != thing.Pid) {
				t.Errorf("found at %s, held by process %d, descriptor %d", f.Thing, thing.Pid, thing.FD)
			}
			text := send(t, hostA, id, to).failed(t, 3, test.code, f.Remedy, "never stopped")
			if !strings.Contains(text, strconv.Itoa(f.Thing.Pid)) {
				t.Errorf("the refusal does not name process %d:\n%s", f.Thing.Pid, text)
			}
			s.assertStayed(t, hostA, hostB)
			if test.tool {
				engineFails(t, id) // what that leaves behind, such as tables of a network that it locked, is its own affair
				if got := status(t, hostA, id); got != "RUNNING" {
					t.Errorf("the container is %q", got)
				}
			}
		})
	}
	t.Cleanup(func() { assertNothingUnderWay(t, hostB, to.dir) })
}

// engineFails has the engine's own tool try.
func engineFails(t *testing.T, id string) {
	t.Helper()
	out, err := try(hostA, "sh", "-c", `mkdir -p /run/scn/own-$1 && ctr tasks checkpoint --image-path /run/scn/own-$1 --work-path /run/scn/own-$1 "$1"
		status=$?; rm -rf /run/scn/own-$1; exit $status`, "sh", id)
	if err == nil {
		t.Errorf("the engine's own tool moves %s:\n%s", id, out)
	}
}

// TestCheckOutside: things whose other end, or whose place, is not in the container.
func TestCheckOutside(t *testing.T) {
	t.Parallel()
	to := startAgent(t, hostB)
	refused := func(t *testing.T, s *subject, code string, words ...string) {
		t.Helper()
		f := finding(t, check(t, hostA, 3, s.id), code)
		if f.Thing.Pid == 0 || f.State != preflight.StillRunning {
			t.Errorf("the finding is not complete: %+v", f)
		}
		send(t, hostA, s.id, to).failed(t, 3, append(words, code, "never stopped")...)
		s.assertStayed(t, hostA, hostB)
	}
	t.Run("unix socket", func(t *testing.T) {
		const id = "check-unix-outside"
		s := holding(t, id, "until [ -S /data/unix-outside/outside.sock ]; do sleep 0.05; done;", "unix-outside")
		root := rootOf(t, hostA, id)
		eventually(t, soon, "the directory is there", func() bool { _, err := os.Stat(root + "/data/unix-outside"); return err == nil })
		l, err := net.Listen("unix", root+"/data/unix-outside/outside.sock")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held(t, hostA, id, "unix-outside")
		refused(t, s, "unix-outside", "end that connection")
		engineFails(t, id)
	})
	t.Run("exec session", func(t *testing.T) {
		const id = "check-exec"
		s := holding(t, id, "", "sleep")
		held(t, hostA, id, "sleep")
		exec := start(t, hostA, "ctr", "tasks", "exec", "--exec-id", "e1", id, "sleep", "1000")
		eventually(t, soon, "the session is there", func() bool {
			return strings.Contains(run(t, hostA, "ctr", "tasks", "ps", id), "e1") || len(lines(run(t, hostA, "ctr", "tasks", "ps", id))) > 3
		})
		refused(t, s, "exec-session", "end the exec session")
		run(t, hostA, "ctr", "tasks", "kill", "--exec-id", "e1", "--signal", "SIGKILL", id)
		exec.wait(t, soon)
		// once it has ended nothing is in the way
		check(t, hostA, 0, id)
	})
}

// TestCheckBothSides asks a destination, which must be left with nothing.
func TestCheckBothSides(t *testing.T) {
	t.Parallel()
	const id = "check-both"
	s := runServer(t, hostA, id, serverFlags{memory: 2})
	to := startAgent(t, hostB)
	dest := []string{id, to.addr(), "--state-dir", sendDir(id) + "/state", "--run-dir", sendDir(id) + "/run"}
	rep := check(t, hostA, 0, append(dest, "--token", to.token(t), "--canary")...)
	if rep.Blocked || rep.Peer == nil || rep.Peer.CRIU == "" || rep.Name != id {
		t.Errorf("%+v", rep)
	}
	assertClean(t, hostB, id)
	assertNothingUnderWay(t, hostB, to.dir)
	t.Run("bind mount", func(t *testing.T) {
		const id = "check-bind"
		shell(t, hostA, `mkdir -p /srv/here-only`)
		s := runContainer(t, hostA, testbed.ContainerSpec{
			ID: id, Image: "testbed/tools:latest", Args: []string{"sleep", "infinity"},
			Flags: []string{"--mount", "type=bind,src=/srv/here-only,dst=/mnt,options=rbind:rw"},
		})
		rep := check(t, hostA, 4, append([]string{id}, dest[1:]...)...)
		if f := finding(t, rep, "policy"); f.Side != preflight.Destination || !strings.Contains(f.Reason, "/srv/here-only") || !strings.Contains(f.Remedy, "--allow-mount") {
			t.Errorf("%+v", f)
		}
		s.assertStayed(t, hostA, hostB)
		engineFailsWithout(t, id, "/srv/here-only")
	})
	t.Run("name taken", func(t *testing.T) {
		t.Cleanup(func() { _, _ = try(hostB, "ctr", "containers", "delete", id) })
		run(t, hostB, "ctr", "containers", "create", "testbed/tools:latest", id)
		if f := finding(t, check(t, hostA, 4, dest...), "taken"); !strings.Contains(f.Reason, id) {
			t.Errorf("%+v", f)
		}
	})
	s.assertStayedHere(t, hostA)
	s.finish(t)
}

// assertStayedHere is assertStayed without a look at other hosts.
func (s *subject) assertStayedHere(t *testing.T, h *testbed.Host) {
	t.Helper()
	if got := status(t, h, s.id); got != "RUNNING" {
		t.Errorf("%s: container %s is %q", h.Name, s.id, got)
	}
	s.progressing(t)
}

// engineFailsWithout has the engine's own tool move a container to where a directory is missing, which is here once it is gone: it notices when
// there is no container any more.
func engineFailsWithout(t *testing.T, id, dir string) {
	t.Helper()
	ref := "localhost/" + id + ":1"
	shell(t, hostA, `ctr containers checkpoint --rw --task --image "$1" "$2"
		ctr tasks delete --force "$1" 2>/dev/null || true; ctr containers delete "$1"; rmdir "$3"`, id, ref, dir)
	t.Cleanup(func() { _, _ = try(hostA, "ctr", "images", "rm", "--sync", ref) })
	if out, err := try(hostA, "ctr", "containers", "restore", "--rw", "--live", id, ref); err == nil || !strings.Contains(out, dir) {
		t.Errorf("the engine's own tool restores %s without %s: %v\n%s", id, dir, err, out)
	}
}

// TestUnusualMoves moves a container that has a lot that is unusual and all right, and one with what only degrades.
func TestUnusualMoves(t *testing.T) {
	t.Parallel()
	to := startAgent(t, hostB)
	fine := []string{
		"raw", "packet", "netlink", "udp", "unix-pair", "unix-waiting", "unix-half", "scm", "eventfd", "epoll", "timerfd", "signalfd", "pidfd",
		"memfd", "memfd-sealed", "aio", "inotify-tmpfs", "ghost", "ghost-sparse", "renamed", "removed-dir", "flock", "posix-lock", "ofd-lock",
		"fifo", "pipe", "pty", "zombie", "shm", "sem", "msg", "locked-memory",
	}
	const id = "check-unusual"
	s := holding(t, id, "", fine...)
	for _, kind := range fine {
		held(t, hostA, id, kind)
	}
	count := func(h *testbed.Host) int { return len(lines(run(t, h, "ctr", "tasks", "ps", id))) }
	before := count(hostA)
	rep := check(t, hostA, 0, id)
	for _, f := range rep.Findings {
		if f.Severity != preflight.Note {
			t.Errorf("found %s", f.Text())
		}
	}
	send(t, hostA, id, to, "--json").moved(t)
	s.assertMoved(t, hostA, hostB)
	if after := count(hostB); after != before {
		t.Errorf("%d processes moved, of %d", after-1, before-1)
	}
}
