package rig

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"time"

	"migrate/testbed"
)

// An Agent is a `migrate recv` that takes containers in at a host.
type Agent struct {
	Host  *testbed.Host
	Token string // for the first container that comes; from then on the hosts know each other
	Said  Tail   // on standard output and standard error

	flags []string
	cmd   *exec.Cmd
	end   context.CancelFunc
}

// StartAgent makes a token and starts an agent with further flags, which ends with ctx; it listens.
func StartAgent(ctx context.Context, h *testbed.Host, flags ...string) (*Agent, error) {
	token, err := Run(ctx, h, "migrate", "enroll")
	if err != nil {
		return nil, err
	}
	a := &Agent{Host: h, Token: strings.TrimSpace(token), flags: flags}
	return a, a.Start(ctx)
}

// Start starts an agent that is stopped, and returns when it listens.
func (a *Agent) Start(ctx context.Context) error {
	ctx, a.end = context.WithCancel(ctx)
	a.cmd = a.Host.Command(ctx, append([]string{"migrate", "recv"}, a.flags...)...)
	a.cmd.Stdout, a.cmd.Stderr = &a.Said, &a.Said
	a.cmd.WaitDelay = time.Second // a pager that outlives the agent holds its output open
	if err := a.cmd.Start(); err != nil {
		return fmt.Errorf("host %s: start migrate recv: %w", a.Host.Name, err)
	}
	return Eventually(ctx, "migrate recv listens on host "+a.Host.Name, func() (bool, error) {
		_, err := Run(ctx, a.Host, "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/7600`)
		return err == nil, ctx.Err()
	})
}

// Kill ends the agent by SIGKILL. It may be killed again.
func (a *Agent) Kill() {
	if a.end != nil && a.cmd.Process != nil {
		a.end()
		_ = a.cmd.Wait() // it was killed
	}
}

// A Tail keeps the end of what is written to it.
type Tail struct {
	mu   sync.Mutex
	text string
}

const tailSize = 4000

func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text += string(p)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(p), nil
}

// Text returns the text.
func (t *Tail) Text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text
}

// Take returns the text and forgets it.
func (t *Tail) Take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := t.text
	t.text = ""
	return text
}
