package matrix

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"migrate/testbed"
)

// An engine is what containers are run with. Containerd is the only one that can be moved from and to so far.
type engine interface {
	name() string
	// run starts a container and returns the address that others reach it at, empty for none.
	run(ctx context.Context, h *testbed.Host, spec testbed.ContainerSpec) (addr string, err error)
	// exec runs a script in a container and returns what it printed.
	exec(ctx context.Context, h *testbed.Host, id, script string) (string, error)
	// state is what the engine says of a container's process, in lower case; empty: there is none.
	state(ctx context.Context, h *testbed.Host, id string) (string, error)
	// kill sends a signal to a container's process.
	kill(ctx context.Context, h *testbed.Host, id, signal string) error
	// remove takes a container away with its network; one that is not there is no error.
	remove(ctx context.Context, h *testbed.Host, id string) error
	// status is the exit status of a container's process that has ended, which is forgotten by that.
	status(ctx context.Context, h *testbed.Host, id string) (int, error)
}

// running is the state of a container that runs.
const running = "running"

// containerd is run by ctr, as a user would.
type containerd struct{}

func (containerd) name() string { return "containerd" }

func (containerd) run(ctx context.Context, h *testbed.Host, spec testbed.ContainerSpec) (string, error) {
	c, err := h.RunContainer(ctx, spec)
	if err != nil || !c.Addr.IsValid() {
		return "", err
	}
	return c.Addr.String(), nil
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
	return h.RemoveContainer(ctx, id)
}

func (containerd) status(ctx context.Context, h *testbed.Host, id string) (int, error) {
	cmd := h.Command(ctx, "ctr", "tasks", "delete", id)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || len(bytes.TrimSpace(out)) > 0 {
		return 0, fmt.Errorf("host %s: delete task %s: %w: %s", h.Name, id, err, bytes.TrimSpace(out))
	}
	return cmd.ProcessState.ExitCode(), nil
}

// output runs a command in a host and returns what it printed. A failure tells what the command said.
func output(ctx context.Context, h *testbed.Host, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := h.Command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + stdout.String())
		return stdout.String(), fmt.Errorf("host %s: %s: %w: %s", h.Name, strings.Join(argv[:min(len(argv), 3)], " "), err, clip(said))
	}
	return stdout.String(), nil
}

// clip shortens what programs said to what a person reads.
func clip(text string) string {
	const much = 1500
	if len(text) > much {
		return text[:much/2] + "\n…\n" + text[len(text)-much/2:]
	}
	return text
}

// program is a script that writes files and then becomes another one.
func program(files map[string]string, script string) []string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(&b, "cat >/data/%s <<'END OF FILE'\n%s\nEND OF FILE\n", name, strings.TrimSuffix(files[name], "\n"))
	}
	return []string{"sh", "-euc", b.String() + script}
}
