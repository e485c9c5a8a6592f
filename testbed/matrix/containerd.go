package matrix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"migrate/testbed"
)

// containerd is run by ctr, as a user would.
type containerd struct{}

func (containerd) name() string { return "containerd" }

func (containerd) refuses(Row) *Refusal { return nil }

func (containerd) run(ctx context.Context, h *testbed.Host, c container) (string, error) {
	started, err := h.RunContainer(ctx, testbed.ContainerSpec{
		ID: c.id, Image: c.image, Args: c.args, Network: c.network, IP: c.ip, Log: logPath(c.id), Flags: ctrFlags(c),
	})
	if err != nil || !started.Addr.IsValid() {
		return "", err
	}
	return started.Addr.String(), nil
}

// ctrFlags are further flags of ctr run, which forbids no system calls unless it is told to.
func ctrFlags(c container) []string {
	flags := append(each("--env", c.env), each("--cap-add", c.caps)...)
	if c.user != "" {
		flags = append(flags, "--user", c.user)
	}
	if c.seccomp == SeccompOn {
		flags = append(flags, "--seccomp")
	}
	return flags
}

// logPath is where a host has what a container prints.
func logPath(id string) string { return "/var/log/" + id + ".log" }

func (containerd) printed(_ context.Context, h *testbed.Host, id string) string {
	text, err := os.ReadFile(h.Path(logPath(id)))
	if err != nil {
		return "" // it has not been there yet
	}
	return string(text)
}

func (containerd) exec(ctx context.Context, h *testbed.Host, id, script string) (string, error) {
	return output(ctx, h, "ctr", "tasks", "exec", "--exec-id", "matrix", id, "sh", "-euc", script)
}

func (containerd) state(ctx context.Context, h *testbed.Host, id string) (string, error) {
	out, err := output(ctx, h, "ctr", "tasks", "list")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 3 && f[0] == id {
			return strings.ToLower(f[2]), nil
		}
	}
	return "", nil
}

func (containerd) kill(ctx context.Context, h *testbed.Host, id, signal string) error {
	_, err := output(ctx, h, "ctr", "tasks", "kill", "--signal", signal, id)
	return err
}

func (containerd) remove(ctx context.Context, h *testbed.Host, id string) error {
	err := h.RemoveContainer(ctx, id)
	if rerr := os.Remove(h.Path(logPath(id))); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

func (containerd) status(ctx context.Context, h *testbed.Host, id string) (int, error) {
	cmd := h.Command(ctx, "ctr", "tasks", "delete", id)
	out, err := cmd.CombinedOutput()
	if m := exitWarning.FindSubmatch(out); m != nil {
		return strconv.Atoi(string(m[1]))
	}
	if cmd.ProcessState == nil || len(bytes.TrimSpace(out)) > 0 {
		return 0, fmt.Errorf("host %s: delete task %s: %w", h.Name, id, errors.Join(err, errors.New(string(bytes.TrimSpace(out)))))
	}
	return cmd.ProcessState.ExitCode(), nil
}

// exitWarning is how ctr says that a task has failed; not every version ends like it then.
var exitWarning = regexp.MustCompile(`exit with non-zero exit code (\d+)`)

func (containerd) counted() map[string]string {
	return map[string]string{
		"containers":        "ctr containers list --quiet; ctr tasks list --quiet",
		"snapshots":         "ctr snapshots list | cut -d ' ' -f 1",
		"leases":            "ctr leases list --quiet",
		"files of runtimes": "find /run/containerd /run/netns -mindepth 1 2>/dev/null | grep -v /fifo || true",
	}
}
