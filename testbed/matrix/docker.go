package matrix

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"migrate/testbed"
)

// docker is run by its own command, as a user would.
type docker struct{ generation testbed.Docker }

func (d docker) name() string { return "docker " + string(d.generation) }

// dockerNetwork is the refusal of containers that have to be reached, by the generation whose daemon looks for a container's
// network namespace before a restore has made it.
var dockerNetwork = Refusal{
	Words: "network namespace that the runtime makes",
	Why:   "the daemon looks for the namespace before the runtime has told a pid, which a restore does only later",
	Link:  "https://github.com/containerd/containerd/issues/12141",
}

// holds tells whether the daemon can restore only what has no network namespace of its own.
func (d docker) holds() bool { return d.generation == testbed.Docker28 }

func (d docker) refuses(row Row) *Refusal {
	if d.holds() && row.network() != testbed.NetworkNone {
		return &dockerNetwork
	}
	return nil
}

func (d docker) run(ctx context.Context, h *testbed.Host, c container) (string, error) {
	if _, err := output(ctx, h, d.runCommand(c)...); err != nil {
		return "", err
	}
	if c.network != testbed.NetworkCNI {
		return "", nil
	}
	addr, err := output(ctx, h, "docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", c.id)
	return strings.TrimSpace(addr), err
}

// runCommand leaves out what Docker does by itself: it has a seccomp profile.
func (d docker) runCommand(c container) []string {
	argv := []string{"docker", "run", "--detach", "--name", c.id, "--network", d.network(c.network)}
	if c.ip != "" {
		argv = append(argv, "--ip", c.ip)
	}
	argv = append(argv, each("--env", c.env)...)
	argv = append(argv, each("--cap-add", c.caps)...)
	if c.user != "" {
		argv = append(argv, "--user", c.user)
	}
	if c.seccomp == SeccompOff {
		argv = append(argv, "--security-opt", "seccomp=unconfined")
	}
	return append(append(argv, c.image), c.args...)
}

// network is Docker's name of one. What needs no network has the host's where no other can be moved.
func (d docker) network(n testbed.Network) string {
	switch {
	case n == testbed.NetworkCNI:
		return testbed.DockerNetwork
	case n == testbed.NetworkHost, d.holds():
		return "host"
	}
	return "none"
}

// printed asks the daemon, which has all that the container ever printed: the log moves along.
func (docker) printed(ctx context.Context, h *testbed.Host, id string) string {
	var both bytes.Buffer
	cmd := h.Command(ctx, "docker", "logs", id)
	cmd.Stdout, cmd.Stderr = &both, &both
	if cmd.Run() != nil {
		return "" // it is not there
	}
	return both.String()
}

func (docker) exec(ctx context.Context, h *testbed.Host, id, script string) (string, error) {
	return output(ctx, h, "docker", "exec", id, "sh", "-euc", script)
}

func (docker) state(ctx context.Context, h *testbed.Host, id string) (string, error) {
	out, err := output(ctx, h, "docker", "ps", "--all", "--filter", "name=^/"+id+"$", "--format", "{{.State}}")
	return strings.TrimSpace(out), err
}

func (docker) kill(ctx context.Context, h *testbed.Host, id, signal string) error {
	_, err := output(ctx, h, "docker", "kill", "--signal", signal, id)
	return err
}

func (docker) remove(ctx context.Context, h *testbed.Host, id string) error {
	_, err := output(ctx, h, "docker", "rm", "--force", "--volumes", id)
	return err
}

func (docker) status(ctx context.Context, h *testbed.Host, id string) (int, error) {
	out, err := output(ctx, h, "docker", "wait", id)
	if err != nil {
		return 0, err
	}
	code, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return 0, fmt.Errorf("host %s: docker wait %s: %w", h.Name, id, err)
	}
	return code, nil
}

func (docker) counted() map[string]string {
	return map[string]string{
		"containers":                "docker ps --all --no-trunc --format '{{.Names}} {{.State}}'",
		"images":                    "docker images --all --quiet --no-trunc",
		"volumes":                   "docker volume ls --quiet",
		"networks":                  "docker network ls --format '{{.Name}}'",
		"addresses":                 "docker network inspect --format '{{range .Containers}}{{.IPv4Address}} {{.Name}}{{println}}{{end}}' " + testbed.DockerNetwork,
		"iptables rules":            "for v in '' 6; do ip${v}tables-save 2>/dev/null | grep -E '^[*-]' || true; done",
		"directories of containers": "ls -A /var/lib/docker/containers /var/lib/docker/image/overlay2/layerdb/mounts",
		"layers":                    "ls -A /var/lib/docker/overlay2 /var/lib/docker/overlay2/l",
		"containerd's containers":   "ctr --namespace moby containers list --quiet; ctr --namespace moby tasks list --quiet",
		"containerd's content":      "ctr --namespace moby content list --quiet; ctr --namespace moby leases list --quiet",
		"files of runtimes":         "find /run/containerd /run/docker /run/netns -mindepth 1 2>/dev/null | grep -v /fifo || true",
		"files that the daemon has": daemonFiles("dockerd"),
		"files that containerd has": daemonFiles("containerd"),
	}
}

// daemonFiles lists what a daemon has open, sockets and pipes by kind.
func daemonFiles(name string) string {
	return "find /proc/$(pgrep --exact " + name + ")/fd -type l -printf '%l\\n' 2>/dev/null | sed 's/:\\[.*//' | grep -v -E '^(socket|anon_inode)' || true"
}
