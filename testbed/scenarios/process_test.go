package scenarios

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"migrate/testbed"
)

// Limits of liveness; nothing below asserts that something is fast.
const (
	soon  = 45 * time.Second
	later = 150 * time.Second
)

// try runs a command in a host.
func try(h *testbed.Host, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), later)
	defer cancel()
	out, err := h.Command(ctx, argv...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run runs a command that must not fail.
func run(t *testing.T, h *testbed.Host, argv ...string) string {
	t.Helper()
	out, err := try(h, argv...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", h.Name, strings.Join(argv, " "), err, out)
	}
	return out
}

// shell runs a script that must not fail; its arguments are $1 and so on.
func shell(t *testing.T, h *testbed.Host, script string, args ...string) string {
	t.Helper()
	return run(t, h, append([]string{"sh", "-euc", script, "sh"}, args...)...)
}

// eventually waits for something to come true.
func eventually(t *testing.T, limit time.Duration, what string, is func() bool) {
	t.Helper()
	if !within(limit, is) {
		t.Fatalf("not within %v: %s", limit, what)
	}
}

func within(limit time.Duration, is func() bool) bool {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if is() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// A process runs in a host beside the test.
type process struct {
	name   string
	host   *testbed.Host
	cmd    *exec.Cmd
	stdout lockedBuffer
	stderr lockedBuffer
	done   chan struct{}
	pid    int // of the command itself, as the machine sees it
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start starts a command in a host. What still runs at the test's end is killed.
func start(t *testing.T, h *testbed.Host, argv ...string) *process {
	t.Helper()
	p := &process{name: h.Name + ": " + strings.Join(argv, " "), host: h, done: make(chan struct{})}
	p.cmd = h.Command(context.Background(), argv...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if strings.Contains(p.stderr.String(), "DATA RACE") {
			t.Errorf("%s: data race\n%s", p.name, p.stderr.String())
		}
		if t.Failed() {
			t.Logf("%s printed\n%s\n%s", p.name, clip(p.stdout.String()), clip(p.stderr.String()))
		}
	})
	if !within(soon, func() bool { return p.ended() || p.find() }) {
		t.Fatalf("%s does not start", p.name)
	}
	return p
}

func clip(s string) string {
	const much = 6000
	if len(s) > much {
		return s[:much/2] + "\n…\n" + s[len(s)-much/2:]
	}
	return s
}

// find finds the command, which is the child of the process that entered the host.
func (p *process) find() bool {
	// Go makes short-lived children of its own, to see what the kernel can do
	entered, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.cmd.Process.Pid))
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.cmd.Process.Pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(word)
			exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
			if pid > 0 && exe != "" && exe != entered && !strings.HasSuffix(exe, "/setpriv") {
				p.pid = pid
				return true
			}
		}
	}
	return false
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends a signal to the command itself.
func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if p.ended() {
		t.Fatalf("%s has ended before it could be signalled\n%s\n%s", p.name, clip(p.stdout.String()), clip(p.stderr.String()))
	}
	if err := syscall.Kill(p.pid, sig); err != nil {
		t.Fatalf("%s: signal: %v", p.name, err)
	}
}

// wait waits for the end and returns the exit status.
func (p *process) wait(t *testing.T, limit time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		t.Fatalf("%s does not end within %v\n%s\n%s", p.name, limit, clip(p.stdout.String()), clip(p.stderr.String()))
		return 0
	}
}

// exitCode tells a command's status, and -1 when it did not run.
func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

func lines(s string) []string {
	return slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
}
