package matrix

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"migrate/internal/report"
	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

const (
	// patience is how long anything may take that ends by itself; a machine may have much else to do.
	patience = 2 * time.Minute
	// moveLimit is how long one move may take.
	moveLimit = 3 * time.Minute
)

// agentFlags let rows in that need more than a container usually has.
var agentFlags = []string{"--allow-privileged"}

// An agent takes containers in at a host.
type agent struct {
	host *testbed.Host
	dir  string // its directories, in the host
	port int

	mu    sync.Mutex
	token string // for the first container that comes here; from then on the hosts know each other
	cmd   *exec.Cmd
	done  chan struct{} // closed when the command has ended
	said  tail
}

// startAgent returns when the agent listens.
func startAgent(ctx context.Context, h *testbed.Host, dir string, port int) (*agent, error) {
	a := &agent{host: h, dir: dir, port: port, done: make(chan struct{})}
	argv := append([]string{"migrate", "recv", "--listen", fmt.Sprintf(":%d", port)}, a.dirs()...)
	a.cmd = h.Command(context.WithoutCancel(ctx), append(argv, agentFlags...)...)
	a.cmd.Stdout, a.cmd.Stderr = &a.said, &a.said
	if err := a.cmd.Start(); err != nil {
		return nil, fmt.Errorf("host %s: start migrate recv: %w", h.Name, err)
	}
	go func() {
		_ = a.cmd.Wait() // how it ended is told by what it said
		close(a.done)
	}()
	err := rig.Eventually(ctx, "migrate recv listens on host "+h.Name, func() (bool, error) {
		if a.ended() {
			return false, errors.New("it has ended: " + a.said.text())
		}
		return strings.Contains(a.said.text(), "fingerprint "), nil
	})
	if err != nil {
		a.stop()
		return nil, err
	}
	token, err := output(ctx, h, "migrate", "enroll", "--state-dir", dir+"/state")
	if err != nil {
		a.stop()
		return nil, err
	}
	a.token = strings.TrimSpace(token)
	return a, nil
}

// dirs are the flags that name the agent's directories, of which source and destination at a host have the same.
func (a *agent) dirs() []string {
	return []string{"--state-dir", a.dir + "/state", "--run-dir", a.dir + "/run", "--log-dir", a.dir + "/log"}
}

func (a *agent) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// stop ends the agent and waits for that.
func (a *agent) stop() {
	a.signal(syscall.SIGTERM)
	select {
	case <-a.done:
	case <-time.After(patience):
		_ = a.cmd.Process.Kill()
		<-a.done
	}
}

// signal sends a signal to the agent itself. The command that was started only enters the host.
func (a *agent) signal(sig syscall.Signal) {
	if pid, err := a.pid(); err == nil {
		_ = syscall.Kill(pid, sig) // it may just have ended
	}
}

// pid is the agent's, as the machine numbers it: the one process below the command that runs migrate.
func (a *agent) pid() (int, error) {
	for queue := []int{a.cmd.Process.Pid}; len(queue) > 0; queue = queue[1:] {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", queue[0]))
		if err == nil && bytes.HasPrefix(text, []byte("migrate\x00recv\x00")) {
			return queue[0], nil
		}
		queue = append(queue, children(queue[0])...)
	}
	return 0, fmt.Errorf("host %s: migrate recv does not run: %s", a.host.Name, a.said.text())
}

// join is what admits a source for the first time.
func (a *agent) join() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.token == "" {
		return nil
	}
	return []string{"--token", a.token}
}

func (a *agent) joined() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.token = ""
}

// send moves a container from this agent's host to another's. said is what migrate send printed on standard error. A failure
// that the report tells of is a *fail.Fault.
func (a *agent) send(ctx context.Context, id string, to *agent) (rep *report.Report, said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	argv := append([]string{"migrate", "send", id, fmt.Sprintf("%s:%d", to.host.Name, to.port), "--json"}, a.dirs()...)
	cmd := a.host.Command(ctx, append(argv, to.join()...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	said = strings.TrimSpace(stderr.String())
	if ctx.Err() == context.DeadlineExceeded {
		return nil, said, fmt.Errorf("the move did not end within %v", moveLimit)
	}
	rep = &report.Report{}
	if jerr := json.Unmarshal(stdout.Bytes(), rep); jerr != nil {
		return nil, said, fmt.Errorf("there is no report: %w", errors.Join(err, jerr))
	}
	switch {
	case rep.Error != nil:
		return rep, said, rep.Error
	case err != nil:
		return rep, said, err
	case rep.Result != report.Moved:
		return rep, said, fmt.Errorf("the report says %s", rep.Result)
	}
	to.joined()
	return rep, said, nil
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept string
}

// tailSize holds the stacks of some hundred goroutines.
const tailSize = 1 << 20

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept += string(p)
	t.kept = t.kept[max(0, len(t.kept)-tailSize):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.kept
}
