package criu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// roles are further processes that this program can be, by its first argument.
var roles = map[string]func(args []string) int{}

// TestMain is also the two processes that these tests kill: an agent, and the guard that it starts.
func TestMain(m *testing.M) {
	switch n := len(os.Args); {
	case n > 1 && roles[os.Args[1]] != nil:
		os.Exit(roles[os.Args[1]](os.Args[2:]))
	case os.Getenv("MIGRATE_TEST_GUARD") != "" && n > 1 && strings.HasPrefix(os.Args[n-1], "{"):
		os.Exit(guardMain(os.Args[n-1]))
	case os.Getenv("MIGRATE_TEST_AGENT") != "":
		os.Exit(agentMain(os.Getenv("MIGRATE_TEST_AGENT"), os.Getenv("MIGRATE_TEST_DIR")))
	}
	os.Exit(m.Run())
}

// guardMain writes down that it was to thaw the container.
func guardMain(arg string) int {
	var job GuardJob
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return RunGuard(job, os.Stdin, func(_ context.Context, job GuardJob) error {
		if err := os.WriteFile(job.Engine, []byte(job.ID+"\n"), 0o600); err != nil {
			return err
		}
		if job.NetNS == "fail" {
			return errors.New("no engine")
		}
		return nil
	})
}

// request is a dump in dir by the script that stands for the runtime.
func request(dir string, s *Stage) DumpRequest {
	return DumpRequest{
		Self: []string{"/proc/self/exe"}, Runtime: filepath.Join(dir, "runc"), Root: "/run/x", ID: "web", ConfigAt: filepath.Join(dir, "etc/runc.conf"),
		ImageDir: s.Images(), WorkDir: s.Work(), HookDir: s.Hook(), TCP: TCPEstablished, Engine: filepath.Join(dir, "orphaned"),
		Freezer: filepath.Join(dir, "cgroup/freezer.state"), Stage: s.Dir(),
	}
}

// agentMain goes as far as mode says, tells so, and waits for its end.
func agentMain(mode, dir string) int {
	err := func() error {
		s, err := NewStage(filepath.Join(dir, "run"), "x", 16<<20)
		if err != nil {
			return err
		}
		req := request(dir, s)
		if mode == "no-engine" {
			req.NetNS = "fail"
		}
		if req.Keep, err = lockedFile(filepath.Join(dir, "lock")); err != nil {
			return err
		}
		d, err := PrepareDump(context.Background(), req)
		if err != nil || mode == "prepared" {
			return err
		}
		if err := d.Begin(); err != nil {
			return err
		}
		if mode == "begun" {
			return waitFor(func() bool { _, err := os.Stat(filepath.Join(dir, "runtime-up")); return err == nil })
		}
		if err := d.WaitHeld(context.Background()); err != nil {
			return err
		}
		switch mode {
		case "go":
			return d.PointOfNoReturn()
		case "aborted":
			d.Abort(NewFreezer(""), 10*time.Second)
		}
		return nil
	}()
	fmt.Println("there", err)
	time.Sleep(time.Minute)
	return 0
}

func lockedFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return f, syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

const guardRuntime = `#!/bin/sh
ulimit -n >'@DIR@/descriptors'
echo $$ >'@DIR@/runtime-up'
conf=$(cat '@DIR@/etc/runc.conf')
hook=${conf##*action-script \"}
hook=${hook%%\"*}
CRTOOLS_SCRIPT_ACTION=pre-dump "$hook" || { echo refused >'@DIR@/verdict'; exit 1; }
[ '@MODE@' = hang ] && exec sleep 1000
if [ '@MODE@' = fail ]; then
	echo '(00.020000) Error (criu/sk-inet.c:191): inet: Connected TCP socket' >'@DIR@/run/x/work/dump.log'
	echo 'level=error msg="criu failed"'
	exit 1
fi
echo '(00.000100) Version: 4.2' >'@DIR@/run/x/work/dump.log'
CRTOOLS_SCRIPT_ACTION=post-dump "$hook" && { echo committed >'@DIR@/verdict'; exit 0; }
echo aborted >'@DIR@/verdict'
exit 1
`

func guardDir(t *testing.T, mode string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: guards get a mount namespace, which needs root")
	}
	dir := t.TempDir()
	text := strings.NewReplacer("@DIR@", dir, "@MODE@", mode).Replace(guardRuntime)
	for name, b := range map[string]string{"runc": text, "etc/runc.conf": "skip-in-flight\n", "etc/other.conf": "x\n", "cgroup/freezer.state": "FROZEN", "cgroup/cgroup.procs": ""} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(b), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("MIGRATE_TEST_GUARD", "1")
	return dir
}

func waitFor(cond func() bool) error {
	for end := time.Now().Add(25 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			return errors.New("waited in vain")
		}
	}
	return nil
}

// killAgent runs an agent up to mode and kills it.
func killAgent(t *testing.T, dir, mode string) {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), "MIGRATE_TEST_AGENT="+mode, "MIGRATE_TEST_DIR="+dir)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "there <nil>\n" {
		t.Errorf("the agent says %q, %v", line, err)
	}
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
}

// guardGone waits for the end of the guard whose job names dir: the job is one argument, in which dir is a word.
func guardGone(t *testing.T, dir string) {
	t.Helper()
	err := waitFor(func() bool {
		procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, p := range procs {
			if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), dir) {
				return false
			}
		}
		return true
	})
	if err != nil {
		t.Error("the guard or the runtime is still there")
	}
}

func TestGuardAfterTheAgentsDeath(t *testing.T) {
	for _, c := range []struct {
		mode, runtime string
		thaws         bool
		verdict       string
	}{
		{"prepared", "", true, "refused\n"},  // the container may be frozen before the dump begins
		{"held", "", true, "aborted\n"},      //
		{"go", "", false, "aborted\n"},       // frozen by its cgroup until somebody knows better
		{"aborted", "", false, "aborted\n"},  // the agent's own business
		{"no-engine", "", true, "aborted\n"}, //
	} {
		t.Run(c.mode, func(t *testing.T) {
			dir := guardDir(t, c.runtime)
			killAgent(t, dir, c.mode)
			guardGone(t, dir)
			_, err := os.Stat(filepath.Join(dir, "orphaned"))
			if (err == nil) != c.thaws {
				t.Errorf("called to thaw: %v, want %v", err == nil, c.thaws)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "verdict")); string(b) != c.verdict {
				t.Errorf("CRIU was told %q, want %q", b, c.verdict)
			}
			wantState := "FROZEN"
			if c.mode == "no-engine" {
				wantState = "THAWED" // without the engine
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "cgroup/freezer.state")); string(b) != wantState {
				t.Errorf("the cgroup is %s, want %s", b, wantState)
			}
			left, _ := filepath.Glob(filepath.Join(dir, "run", "*"))
			if c.thaws && len(left) > 0 {
				t.Errorf("the stage is left: %v", left)
			}
			if !c.thaws { // the next agent's
				if n, err := CleanStages(filepath.Join(dir, "run")); n != 1 || err != nil {
					t.Errorf("cleaned %d stages, %v", n, err)
				}
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "etc/runc.conf")); string(b) != "skip-in-flight\n" {
				t.Errorf("the host's configuration was changed to %q", b)
			}
		})
	}
}

// A runtime that hangs is killed when the agent is gone, and the container thawed. Meanwhile nobody else may begin with it.
func TestGuardKillsARuntimeThatHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: takes as long as the guard's patience")
	}
	dir := guardDir(t, "hang")
	killAgent(t, dir, "begun")
	began := time.Now()
	if f, err := lockedFile(filepath.Join(dir, "lock")); !errors.Is(err, syscall.EWOULDBLOCK) {
		t.Errorf("the container is not locked any more: %v, %v", f, err)
	}
	if pid, err := os.ReadFile(filepath.Join(dir, "runtime-up")); err != nil || holds(t, strings.TrimSpace(string(pid)), filepath.Join(dir, "lock")) {
		t.Errorf("the runtime has the lock, too: %v", err)
	}
	if err := waitFor(func() bool { _, err := os.Stat(filepath.Join(dir, "orphaned")); return err == nil }); err != nil {
		t.Fatalf("after %v nobody thawed the container", time.Since(began))
	}
	b, err := os.ReadFile(filepath.Join(dir, "runtime-up"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join("/proc", strings.TrimSpace(string(b)))); err == nil {
		t.Error("the runtime is still there")
	}
	if err := waitFor(func() bool {
		f, err := lockedFile(filepath.Join(dir, "lock"))
		f.Close()
		return err == nil
	}); err != nil {
		t.Error("the container is still locked when the guard is through")
	}
}

// holds says whether a process has the file open.
func holds(t *testing.T, pid, path string) bool {
	t.Helper()
	fds, err := filepath.Glob(filepath.Join("/proc", pid, "fd/*"))
	if err != nil || len(fds) == 0 {
		t.Errorf("process %s has no descriptors, %v", pid, err)
	}
	return slices.ContainsFunc(fds, func(fd string) bool {
		to, _ := os.Readlink(fd)
		return to == path
	})
}

// prepare makes a dump in this process.
func prepare(t *testing.T, dir string) (*Dump, *Stage) {
	t.Helper()
	s, err := NewStage(filepath.Join(dir, "run"), "x", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	d, err := PrepareDump(t.Context(), request(dir, s))
	if err != nil {
		t.Fatal(err)
	}
	return d, s
}

func TestDumpFailureHasItsCause(t *testing.T) {
	d, _ := prepare(t, guardDir(t, "fail"))
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	err := d.WaitHeld(t.Context())
	var f *Failure
	if !errors.As(err, &f) || !strings.HasPrefix(f.Cause.Text, "inet: Connected TCP") || f.Cause.Remedy == "" || f.Output != "criu failed" || f.Log != d.Log() {
		t.Errorf("got %+v, %v", f, err)
	}
	began := time.Now()
	d.Abort(NewFreezer(""), 10*time.Second)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("a dump that had failed was given up only after %v", took)
	}
}

func TestDumpWithoutRuntime(t *testing.T) {
	dir := guardDir(t, "")
	if err := os.Remove(filepath.Join(dir, "runc")); err != nil {
		t.Fatal(err)
	}
	s, err := NewStage(filepath.Join(dir, "run"), "x", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := PrepareDump(t.Context(), request(dir, s)); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

func TestDumpAbortsInEveryState(t *testing.T) {
	for _, state := range []string{"prepared", "begun", "held", "hangs"} {
		t.Run(state, func(t *testing.T) {
			dir := guardDir(t, map[string]string{"hangs": "hang"}[state])
			d, _ := prepare(t, dir)
			if state != "prepared" {
				if err := d.Begin(); err != nil {
					t.Fatal(err)
				}
			}
			if state == "held" {
				if err := d.WaitHeld(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if state == "hangs" {
				if err := waitFor(func() bool { _, err := os.Stat(filepath.Join(dir, "runtime-up")); return err == nil }); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan struct{})
			go func() { d.Abort(NewFreezer(""), time.Second); d.Abort(NewFreezer(""), time.Second); close(done) }()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				t.Fatal("Abort hangs")
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "verdict")); string(b) == "committed\n" {
				t.Error("CRIU was told to go on")
			}
			guardGone(t, dir)
		})
	}
}

func TestDumpCommits(t *testing.T) {
	dir := guardDir(t, "")
	d, _ := prepare(t, dir)
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitHeld(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.PointOfNoReturn(); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), NewFreezer("")); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "verdict")); string(b) != "committed\n" {
		t.Errorf("CRIU was told %q", b)
	}
	d.Abort(NewFreezer(""), time.Second) // does nothing any more
	guardGone(t, dir)
}

// An agent that dies before the script asks for its verdict leaves nobody waiting.
func TestScriptWithoutAgent(t *testing.T) {
	h, err := NewHook(t.TempDir(), ActionPostDump)
	if err != nil {
		t.Fatal(err)
	}
	h.Close()
	done := make(chan error, 1)
	c := runScript(t, h, ActionPostDump)
	go func() { done <- c.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("the script allowed CRIU to go on")
		}
	case <-time.After(10 * time.Second):
		_ = c.Process.Kill()
		t.Error("the script waits for an agent that is gone")
	}
}
