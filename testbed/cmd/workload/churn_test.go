package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/testbed/cmd/workload/internal/churn"
)

// churnLine is any line of the program's output that is no tick.
type churnLine struct {
	Started  string        `json:"started"`
	Verified bool          `json:"verified"`
	Number   int           `json:"number"`
	Pages    int           `json:"pages"`
	Damaged  *churn.Damage `json:"damaged"`
}

type churning struct {
	*exec.Cmd
	lines chan churnLine
	said  *strings.Builder
}

// churnSeed is in the third word of most pages.
const churnSeed = 0x5eedbeef

// churnLimit is how long anything may take on a machine that does much else.
const churnLimit = 2 * time.Minute

// buildWorkload compiles the program as it runs in containers: without the race detector, which forked children could not
// have.
func buildWorkload(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "workload")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "migrate/testbed/cmd/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return path
}

func startChurn(t *testing.T, program, name string) *churning {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), churnLimit)
	t.Cleanup(cancel)
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // servers run as another user
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := &churning{Cmd: exec.CommandContext(ctx, program, "churn", "--case", name, "--mib", "8", "--seed", strconv.Itoa(churnSeed), "--dir", dir),
		lines: make(chan churnLine, 100), said: &strings.Builder{}}
	c.Stderr = c.said
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			var l churnLine
			if json.Unmarshal(s.Bytes(), &l) == nil {
				c.lines <- l
			}
		}
	}()
	return c
}

// started waits until the program listens to requests.
func (c *churning) started() bool { return (<-c.lines).Started != "" }

// ask has the program verify all.
func (c *churning) ask(t *testing.T) churnLine {
	t.Helper()
	if err := c.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatalf("ask: %v", err)
	}
	return <-c.lines
}

// needy are cases that need what not every machine has: huge pages, or a server.
var needy = map[string]bool{"hugetlb": true, "redis": true, "java": true, "postgres": true}

// TestChurn runs every case by itself.
func TestChurn(t *testing.T) {
	program := buildWorkload(t)
	for _, name := range churn.Names() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startChurn(t, program, name)
			if !c.started() && needy[name] {
				if c.Wait(); c.ProcessState.ExitCode() != unavailableStatus || !strings.Contains(c.said.String(), "cannot run the case") {
					t.Errorf("without what it needs it ends with %v\n%s", c.ProcessState, c.said)
				}
				return
			}
			// the first questions may come before it has done anything
			for n, enough := 1, 0; enough < 3; n++ {
				l := c.ask(t)
				if !l.Verified || l.Number != n || n > 1000 {
					t.Fatalf("answer %d is %+v\n%s", n, l, c.said)
				}
				if l.Pages >= 100 {
					enough++
				}
			}
			if err := c.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			for range c.lines {
			}
			if err := c.Wait(); err != nil {
				t.Errorf("it ends with %v\n%s", err, c.said)
			}
		})
	}
}

// TestChurnDamage has bytes of the program's memory changed from outside.
func TestChurnDamage(t *testing.T) {
	program := buildWorkload(t)
	for _, name := range churn.Names() {
		if needy[name] || name == "write-storm" || name == "goheap" || name == "sparse" {
			continue // not everywhere; pages that do not say whose they are; too much room to look for them in
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startChurn(t, program, name)
			if !c.started() || !c.ask(t).Verified {
				t.Fatalf("it is damaged by itself\n%s", c.said)
			}
			spoil(t, c.Process.Pid)
			found := c.complaint(t)
			if c.Wait(); found == nil || found.Case != name || c.ProcessState.ExitCode() != 1 {
				t.Errorf("damage is answered with %+v and %v\n%s", found, c.ProcessState, c.said)
			}
		})
	}
}

// complaint asks until the program says what is wrong, or ends. What was spoiled may have been written anew, or be unmapped, before
// anybody looked at it: more is spoiled then.
func (c *churning) complaint(t *testing.T) (found *churn.Damage) {
	t.Helper()
	again := time.NewTicker(2 * time.Second)
	defer again.Stop()
	ask := func() { _ = c.Process.Signal(syscall.SIGUSR1) } // it may have noticed by itself
	ask()
	for {
		select {
		case l, ok := <-c.lines:
			if !ok {
				return found
			}
			if l.Damaged != nil {
				found = l.Damaged
			}
		case <-again.C:
			spoilOnce(t, c.Process.Pid)
			ask()
		}
	}
}

// spoil changes a byte in pages of the program. At some moments it has none.
func spoil(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(3 * time.Millisecond) {
		if spoilOnce(t, pid) > 0 {
			return
		}
	}
	t.Fatal("no page begins like the program's")
}

// spoilOnce changes a byte in every page that begins like one of the program's, and returns how many there were. Meanwhile the
// program stands still: what it maps and unmaps is gone before it could be looked at.
func spoilOnce(t *testing.T, pid int) (spoiled int) {
	t.Helper()
	stop(t, pid)
	defer syscall.Kill(pid, syscall.SIGCONT)
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	page := make([]byte, pageSize)
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil || to-from > 1<<30 {
			continue
		}
		for at := from; at < to; at += pageSize {
			if _, err := mem.ReadAt(page, at); err != nil || binary.LittleEndian.Uint32(page[16:]) != churnSeed {
				continue
			}
			if _, err := mem.WriteAt([]byte{page[3200] + 1}, at+3200); err == nil {
				spoiled++
			}
		}
	}
	return spoiled
}

// stop returns when all threads of the process are stopped, or have ended.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		if !slices.ContainsFunc(threads, func(stat string) bool {
			b, err := os.ReadFile(stat)
			return err == nil && !strings.Contains(string(b), ") T ") && !strings.Contains(string(b), ") Z ")
		}) {
			return
		}
	}
	t.Fatal("the program does not stop")
}
