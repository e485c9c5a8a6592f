package scenarios

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"os"
	"strings"
	"testing"

	"migrate/testbed"
)

// TestContainerNotFit tries containers that are in no state to be moved. They stay as they are.
func TestContainerNotFit(t *testing.T) {
	t.Parallel()
	to := startAgent(t, hostB)
	t.Run("unknown", func(t *testing.T) {
		send(t, hostA, "unknown", to).failed(t, 3, "unknown", "no such container")
	})
	t.Run("stopped", func(t *testing.T) {
		const id = "stopped"
		runServer(t, hostA, id, serverFlags{memory: 1, noClient: true})
		run(t, hostA, "ctr", "tasks", "kill", "--signal", "SIGKILL", id)
		eventually(t, soon, "the container has stopped", func() bool { return status(t, hostA, id) == "STOPPED" })
		send(t, hostA, id, to).failed(t, 3, id, "not running")
		if got := status(t, hostA, id); got != "STOPPED" {
			t.Errorf("the container is %q afterwards", got)
		}
		assertClean(t, hostB, id)
	})
	t.Run("without a task", func(t *testing.T) {
		const id = "no-task"
		t.Cleanup(func() { purge(t, id) })
		run(t, hostA, "ctr", "containers", "create", "testbed/tools:latest", id)
		send(t, hostA, id, to).failed(t, 3, id, "not running")
		assertClean(t, hostB, id)
	})
	t.Run("paused", func(t *testing.T) {
		const id = "paused"
		s := runServer(t, hostA, id, serverFlags{memory: 1})
		run(t, hostA, "ctr", "tasks", "pause", id)
		send(t, hostA, id, to).failed(t, 3, id, "paused")
		if got := status(t, hostA, id); got != "PAUSED" {
			t.Errorf("the container is %q afterwards", got)
		}
		run(t, hostA, "ctr", "tasks", "resume", id)
		s.assertStayed(t, hostA, hostB)
		s.finish(t)
	})
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestNameTaken finds something in the way at the destination, which must survive.
func TestNameTaken(t *testing.T) {
	t.Parallel()
	to := startAgent(t, hostB)
	for _, test := range []struct {
		name, script, check string
	}{
		{"container", `ctr containers create testbed/redis:latest "$1"`, `ctr containers info "$1" | grep -q testbed/redis`},
		{"snapshot", `ctr snapshots --snapshotter overlayfs prepare "$1"`, `ctr snapshots --snapshotter overlayfs info "$1"`},
		{"network namespace", `ip netns add "$1"; ip -n "$1" link add dummy0 type bridge`, `ip -n "$1" link show dummy0`},
	} {
		t.Run(test.name, func(t *testing.T) {
			id := "taken-" + strings.ReplaceAll(test.name, " ", "-")
			s := runServer(t, hostA, id, serverFlags{memory: 1})
			t.Cleanup(func() {
				_, _ = try(hostB, "sh", "-c", `ctr containers delete "$1"; ctr snapshots --snapshotter overlayfs rm "$1"; ip netns delete "$1"`, "sh", id)
			})
			shell(t, hostB, test.script, id)
			send(t, hostA, id, to).failed(t, 4, id)
			shell(t, hostB, test.check+" >/dev/null", id)
			if got := status(t, hostA, id); got != "RUNNING" {
				t.Errorf("the container is %q", got)
			}
			s.progressing(t)
			assertNothingUnderWay(t, hostA, sendDir(id))
			assertNothingUnderWay(t, hostB, to.dir)
			s.finish(t)
		})
	}
}

// TestAddressTaken: the container's address is in use at the destination.
func TestAddressTaken(t *testing.T) {
	t.Parallel()
	const id, other = "address", "address-other"
	to := startAgent(t, hostB)
	s := runContainer(t, hostA, testbed.ContainerSpec{
		ID: id, Image: "testbed/tools:latest", Network: testbed.NetworkCNI, Args: []string{"sleep", "infinity"},
	})
	// the same address again: CNI reserves addresses on each host for itself
	runContainer(t, hostB, testbed.ContainerSpec{
		ID: other, Image: "testbed/tools:latest", Network: testbed.NetworkCNI, IP: s.addr, Args: []string{"sleep", "infinity"},
	})
	send(t, hostA, id, to).failed(t, 4, s.addr)
	if got := status(t, hostB, other); got != "RUNNING" {
		t.Errorf("the container that has the address is %q", got)
	}
	s.assertStayed(t, hostA, hostB)
}

// TestKeys: either side does not trust the other.
func TestKeys(t *testing.T) {
	t.Parallel()
	const id = "keys"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	to := startAgent(t, hostB)
	sum := sha256.Sum256([]byte("another key"))
	wrong := "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
	t.Run("destination", func(t *testing.T) {
		sendTo(t, hostA, id, to.addr(), "--fingerprint", wrong).failed(t, 5, wrong, to.fingerprint())
	})
	t.Run("source", func(t *testing.T) {
		sendTo(t, hostA, id, to.addr(), "--fingerprint", to.fingerprint()).failed(t, 5)
	})
	t.Run("neither known", func(t *testing.T) {
		if code := sendTo(t, hostA, id, to.addr()).wait(t, later); code != 5 {
			t.Errorf("exit status %d, want 5", code)
		}
	})
	t.Run("token used twice", func(t *testing.T) {
		token := to.token(t)
		const first = "keys-first"
		runServer(t, hostA, first, serverFlags{memory: 1, noClient: true})
		sendTo(t, hostA, first, to.addr(), "--token", token, "--json").moved(t)
		sendTo(t, hostA, id, to.addr(), "--token", token).failed(t, 5, "already used")
	})
	s.assertStayed(t, hostA, hostB)
	assertNothingUnderWay(t, hostB, to.dir)
	s.finish(t)
}

// TestNobodyListens has no agent at the destination.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	const id = "nobody"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	to := startAgent(t, hostB)
	fingerprint := to.fingerprint()
	to.signal(t, 15)
	to.wait(t, soon)
	sendTo(t, hostA, id, to.addr(), "--fingerprint", fingerprint).failed(t, 6, "refused")
	sendTo(t, hostA, id, "ssh://root@b", "--remote-command", "no-such-command").failed(t, 6, "no-such-command")
	s.assertStayed(t, hostA, hostB)
	s.finish(t)
}

// TestNewerPeer: the other side speaks only later versions of the protocol.
func TestNewerPeer(t *testing.T) {
	t.Parallel()
	const id = "newer"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	t.Run("destination", func(t *testing.T) {
		sendTo(t, hostA, id, "ssh://root@b", "--remote-command", "scenario-peer").failed(t, 10, "900-901", "upgrade")
	})
	t.Run("source", func(t *testing.T) {
		preface := make([]byte, prefaceSize)
		copy(preface, "\x89MGRT\r\n\x1a")
		binary.BigEndian.PutUint16(preface[8:], 900)
		binary.BigEndian.PutUint16(preface[10:], 901)
		preface[16], preface[18] = 1, 1 // source, one lane
		const dir = "/run/scn/recv-newer"
		cmd := hostB.Command(t.Context(), "migrate", "recv", "--stdio", "--state-dir", dir+"/state", "--run-dir", dir+"/run")
		var out, said bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(preface), &out, &said
		err := cmd.Run()
		if code := exitCode(err); code != 10 {
			t.Errorf("exit status %d, want 10: %v\n%s", code, err, said.String())
		}
		if !strings.Contains(said.String(), "900-901") {
			t.Errorf("the error does not tell the versions:\n%s", said.String())
		}
		if answer := out.Bytes(); len(answer) != prefaceSize || binary.BigEndian.Uint16(answer[14:]) != statusVersion {
			t.Errorf("the answer is no refusal for the version: %x", answer)
		}
		assertNothingUnderWay(t, hostB, dir)
	})
	s.assertStayed(t, hostA, hostB)
	s.finish(t)
}

// TestSecondSend: a container that is being moved is not moved twice.
func TestSecondSend(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "twice"
	s := runServer(t, r.a, id, serverFlags{memory: 1, files: 12 << 10})
	to := startAgent(t, r.b)
	first := send(t, r.a, id, to, "--bandwidth", "2MiB")
	eventually(t, soon, "the first migration is in sync", func() bool { return first.isPast("offer") })
	send(t, r.a, id, to).failed(t, 3, id, "already")
	if code := first.wait(t, later); code != 0 {
		t.Errorf("the first migration: exit status %d\n%s", code, first.stderr.String())
	}
	s.assertMoved(t, r.a, r.b)
	assertNothingUnderWay(t, r.b, to.dir)
	s.finish(t)
}

// TestCRIUMissing hides CRIU on a host that no other test uses meanwhile.
func TestCRIUMissing(t *testing.T) {
	r := chosen(t)
	hide := func(t *testing.T) {
		for _, at := range []string{"/usr/local/sbin/criu", "/usr/sbin/criu"} {
			if err := os.Rename(r.last.Path(at), r.last.Path(at+".hidden")); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.Rename(r.last.Path(at+".hidden"), r.last.Path(at)) })
		}
	}
	t.Run("source", func(t *testing.T) {
		const id = "criu-missing-source"
		s := runServer(t, r.last, id, serverFlags{memory: 1})
		hide(t)
		if out, err := r.ownCheckpoint(r.last, id, "/run/scn/own-"+id); err == nil {
			t.Errorf("the engine's own tool needs no CRIU:\n%s", out)
		}
		send(t, r.last, id, startAgent(t, r.b)).failed(t, 7, "CRIU", "source", "install criu")
		s.assertStayed(t, r.last, r.b)
		s.finish(t)
	})
	t.Run("destination", func(t *testing.T) {
		const id = "criu-missing-destination"
		s := runServer(t, r.a, id, serverFlags{memory: 1})
		to := startAgent(t, r.last)
		hide(t)
		text := send(t, r.a, id, to).failed(t, 4, "CRIU", "destination", "install")
		if !strings.Contains(text, "never stopped") {
			t.Errorf("the container was stopped although it was known that it could not be restored:\n%s", text)
		}
		s.assertStayed(t, r.a, r.last)
		assertNothingUnderWay(t, r.last, to.dir)
		s.finish(t)
	})
}

// TestCRIUFails has CRIU fail, in various ways, on either side.
func TestCRIUFails(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	to := startAgent(t, r.b)
	for _, test := range []struct {
		name         string
		when, script string
		flags        []string
		code         int
		log          bool
		words        []string
	}{
		{name: "dump-refused", when: atDump, script: `echo "out of order" >&2; exit 1`, code: 7, words: []string{"runs on at the source"}},
		{name: "dump", when: atDump, script: `for s in ` + sendDir("criu-dump") + `/run/*/work; do
			dd if=/dev/zero of=$s/fill bs=1M 2>/dev/null || truncate -s -600K $s/fill; done`, flags: []string{"--mode", "stop"}, code: 7, log: true, words: []string{"runs on at the source", "CRIU: "}},
		{name: "dump-killed", when: atDump, script: `kill -9 $$`, code: 7, words: []string{"runs on at the source"}},
		{name: "dump-hangs", when: atDump, script: `exec sleep 600`, code: 11, words: []string{"runs on at the source", "never stopped", "criu check"}},
		{name: "restore", when: atRestore, script: `echo "out of order" >&2; exit 1`, code: 8, words: []string{"destination", "runs on at the source"}},
		{name: "restore-killed", when: atRestore, script: `kill -9 $$`, code: 8, words: []string{"destination"}},
		{name: "restore-damaged", when: atRestore, script: `: >"$(echo "$caller" | grep -A 1 -x -e --image-path | tail -n 1)/core-1.img"`, code: 8, log: true,
			words: []string{"destination", "CRIU: "}},
		{name: "restore-hangs", when: atRestore, script: `exec sleep 600`, flags: []string{"--timeout", "12s"}, code: 11,
			words: []string{"runs on at the source", "--timeout"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			id := "criu-" + test.name
			s := runServer(t, r.a, id, serverFlags{memory: 2, dirty: 50})
			hostOf := map[bool]*testbed.Host{true: r.a, false: r.b}
			where := hostOf[test.when == atDump]
			hit := fault(t, where, id, test.when, test.script)
			text := send(t, r.a, id, to, test.flags...).failed(t, test.code, test.words...)
			if !hit() {
				t.Error("CRIU was not made to fail")
			}
			if test.log {
				criuLog(t, where, text)
			}
			s.assertStayed(t, r.a, r.b)
			s.finish(t)
		})
	}
	t.Run("undumpable", func(t *testing.T) {
		t.Parallel()
		const id = "criu-undumpable"
		s := runServer(t, r.a, id, serverFlags{memory: 1, script: "exec 9<>/data/ghost; head -c 300000000 /dev/urandom >&9; rm /data/ghost\n"})
		text := send(t, r.a, id, to, "--ignore", "file-deleted-large").failed(t, 7, "ghost file", "runs on at the source", "restart the program")
		criuLog(t, r.a, text)
		s.assertStayed(t, r.a, r.b)
		s.finish(t)
	})
	t.Cleanup(func() { assertNothingUnderWay(t, r.b, to.dir) })
}
