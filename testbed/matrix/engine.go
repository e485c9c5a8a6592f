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

// An engine is what containers are run with.
type engine interface {
	name() string
	// refuses is why no container like the row's can be moved to this engine, whatever runs in it; nil: it can.
	refuses(row Row) *Refusal
	// run starts a container and returns the address that others reach it at, empty for none.
	run(ctx context.Context, h *testbed.Host, c container) (addr string, err error)
	// exec runs a script in a container and returns what it printed.
	exec(ctx context.Context, h *testbed.Host, id, script string) (string, error)
	// state is what the engine says of a container's process, in lower case; empty: there is none.
	state(ctx context.Context, h *testbed.Host, id string) (string, error)
	// printed is what a host has of a container's output; empty if the container has not been there.
	printed(ctx context.Context, h *testbed.Host, id string) string
	// kill sends a signal to a container's process.
	kill(ctx context.Context, h *testbed.Host, id, signal string) error
	// remove takes a container away with its network and output; one that is not there is no error.
	remove(ctx context.Context, h *testbed.Host, id string) error
	// status is the exit status of a container's process that has ended, which may be forgotten by that.
	status(ctx context.Context, h *testbed.Host, id string) (int, error)
	// counted are commands that list what the engine keeps on a host, see [Census].
	counted() map[string]string
}

// engineOf is containerd, or a generation of Docker.
func engineOf(d testbed.Docker) engine {
	if d == testbed.DockerNone {
		return containerd{}
	}
	return docker{d}
}

// A container is what is to run, in no engine's words.
type container struct {
	id, image string
	args      []string
	network   testbed.Network // NetworkCNI stands for the network that joins the segment of all hosts, whichever the engine has
	ip        string          // in such a network; default: any
	user      string          // default: the image's
	env, caps []string
	seccomp   Seccomp
}

// running is the state of a container that runs.
const running = "running"

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

// each puts a flag before every value.
func each(flag string, values []string) (argv []string) {
	for _, v := range values {
		argv = append(argv, flag, v)
	}
	return argv
}
