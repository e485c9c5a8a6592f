package throttle

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/internal/cgroup"
)

// This binary is its own keeper, and an agent that waits to be killed.
const (
	asKeeper = "THROTTLE_TEST_KEEPER"
	asAgent  = "THROTTLE_TEST_AGENT"
)

func TestMain(m *testing.M) {
	var q cgroup.Quota
	if os.Getenv(asAgent) != "" {
		agent()
	}
	if os.Getenv(asKeeper) != "" && len(os.Args) > 1 && json.Unmarshal([]byte(os.Args[1]), &q) == nil {
		os.Exit(Keep(&q, os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// agent throttles the group that is its argument and never ends.
func agent() {
	os.Unsetenv(asAgent) // its keeper is none
	os.Setenv(asKeeper, "1")
	q := &cgroup.Quota{Dir: cgroup.Dir{Path: os.Args[1]}, Limit: "-1", Period: 100_000}
	t, err := start(context.Background(), self(), q, 1, nil)
	if err == nil {
		err = t.Step(context.Background())
	}
	if err != nil {
		os.Stdout.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Stdout.WriteString("throttled\n")
	select {}
}

func self() []string { return []string{"/proc/self/exe"} }

// group is a directory that plays a control group.
func group(t *testing.T) (dir string, q *cgroup.Quota) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, file), []byte("-1"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, &cgroup.Quota{Dir: cgroup.Dir{Path: dir}, Limit: "-1", Period: 100_000}
}

const file = "cpu.cfs_quota_us"

// limitOf is what the group's file begins with: a real one takes each write for its whole content.
func limitOf(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func startTest(t *testing.T, q *cgroup.Quota, full float64) *Throttle {
	t.Helper()
	t.Setenv(asKeeper, "1")
	th, err := start(t.Context(), self(), q, full, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = th.End() })
	return th
}

func TestSteps(t *testing.T) {
	dir, q := group(t)
	th := startTest(t, q, 2)
	var steps []int
	for th.More() {
		if err := th.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		steps = append(steps, th.Percent())
	}
	if want := "20 30 40 50 60 70 80 90 99"; strings.Trim(strings.ReplaceAll(jsonOf(t, steps), ",", " "), "[]") != want {
		t.Errorf("steps %v, want %s", steps, want)
	}
	if got := limitOf(t, dir); !strings.HasPrefix(got, "2000") { // 1 % of two CPUs
		t.Errorf("limit %q", got)
	}
	for range 2 {
		if err := th.End(); err != nil {
			t.Fatal(err)
		}
	}
	if got := limitOf(t, dir); !strings.HasPrefix(got, "-1") {
		t.Errorf("limit %q afterwards", got)
	}
	if _, ok := <-th.answers; ok {
		t.Error("the keeper goes on")
	}
}

func jsonOf(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// A container that has a limit is slowed down from there.
func TestStepBelowALimit(t *testing.T) {
	dir, q := group(t)
	q.Limit = "50000"
	th := startTest(t, q, 4)
	if err := th.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := limitOf(t, dir); got != "40000" {
		t.Errorf("limit %q, want four fifths of what it had", got)
	}
}

func TestKeeperDies(t *testing.T) {
	dir, q := group(t)
	th := startTest(t, q, 1)
	if err := th.Step(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := th.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range th.answers {
		continue
	}
	if err := th.Step(t.Context()); err == nil {
		t.Error("a step without a keeper")
	}
	if err := th.End(); err != nil {
		t.Fatal(err)
	}
	if got := limitOf(t, dir); !strings.HasPrefix(got, "-1") {
		t.Errorf("limit %q afterwards", got)
	}
}

func TestAgentIsKilled(t *testing.T) {
	dir, _ := group(t)
	cmd := exec.Command("/proc/self/exe", dir)
	cmd.Env = append(os.Environ(), asAgent+"=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	word := make([]byte, len("throttled"))
	if _, err := out.Read(word); err != nil || string(word) != "throttled" {
		t.Fatalf("%q, %v", word, err)
	}
	if got := limitOf(t, dir); got != "80000" {
		t.Errorf("limit %q", got)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	for end := time.Now().Add(20 * time.Second); !strings.HasPrefix(limitOf(t, dir), "-1"); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("limit %q long after the agent's death", limitOf(t, dir))
		}
	}
}

func TestGroupThatIsGone(t *testing.T) {
	dir, q := group(t)
	th := startTest(t, q, 1)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := th.Step(t.Context()); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("throttled a group that is gone: %v", err)
	}
	if err := th.End(); err != nil {
		t.Error(err)
	}
}

func TestKeepRefusesNonsense(t *testing.T) {
	for _, word := range []string{"", "limit", "limit x", "limit -1", "limit 0", "limit NaN", "80"} {
		if err := limit(&cgroup.Quota{Dir: cgroup.Dir{Path: t.TempDir()}, Period: 1}, word); err == nil || !strings.Contains(err.Error(), "is no limit") {
			t.Errorf("%q: %v", word, err)
		}
	}
}
