package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"migrate/testbed"
)

func buildWorkload(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "migrate/testbed/cmd/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the workload: %w\n%s", err, out)
	}
	return nil
}

// output runs a command in a host; what it said goes into its error.
func output(ctx context.Context, h *testbed.Host, argv ...string) (string, error) {
	cmd := h.Command(ctx, argv...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("host %s: %s: %w: %s", h.Name, argv[0], err, strings.TrimSpace(errs.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// A process runs in a host in the background.
type process struct {
	host    *testbed.Host
	pidFile string // of the host
	out     lockedBuffer
	err     lockedBuffer
	done    chan error
}

// background starts a command in a host. The shell around it notes the pid, since signals to the command that enters the
// host do not reach it.
func background(ctx context.Context, h *testbed.Host, name string, argv ...string) (*process, error) {
	p := &process{host: h, pidFile: "/run/demo-" + name + ".pid", done: make(chan error, 1)}
	cmd := h.Command(ctx, append([]string{"sh", "-c", `echo $$ >"$0"; exec "$@"`, p.pidFile}, argv...)...)
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("host %s: start %s: %w", h.Name, name, err)
	}
	go func() { p.done <- cmd.Wait() }()
	return p, nil
}

// until waits for something to come true while the process runs.
func (p *process) until(ctx context.Context, what string, is func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, waitLimit, errors.New("it takes too long"))
	defer cancel()
	for !is() {
		select {
		case err := <-p.done:
			p.done <- err
			return fmt.Errorf("%s: it ended with %v\n%s", what, err, p.err.String())
		case <-ctx.Done():
			return fmt.Errorf("%s: %w\n%s", what, context.Cause(ctx), p.err.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// end sends SIGTERM and waits.
func (p *process) end(ctx context.Context) error {
	if _, err := output(ctx, p.host, "sh", "-c", `kill "$(cat "$0")"`, p.pidFile); err != nil {
		return err
	}
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(waitLimit):
		return errors.New("it does not end")
	case <-ctx.Done():
		return ctx.Err()
	}
}

const waitLimit = 30 * time.Second

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
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
