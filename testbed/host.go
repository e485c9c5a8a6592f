package testbed

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	"migrate/testbed/internal/child"
)

// A Host is one host of a testbed.
type Host struct {
	Name string

	bed   *Testbed
	state *hostState
}

// hostPath is PATH in a host: our own programs and wrappers come first.
const hostPath = "/usr/local/sbin:/usr/local/bin:/opt/migrate/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// hostEnv is the environment of everything that runs in a host. Programs built with the race detector, such as a test
// that enters hosts, would otherwise sleep for a second at their end.
var hostEnv = []string{"PATH=" + hostPath, "HOME=/root", "USER=root", "LANG=C.UTF-8", "GORACE=atexit_sleep_ms=0"}

// Pid is the machine's pid of the host's first process.
func (h *Host) Pid() int { return h.state.Init.Pid }

// Addr is the host's IPv4 address.
func (h *Host) Addr() netip.Addr { return hostAddress(h.bed.state.Network, h.state.Index).V4.Addr() }

// Addr6 is the host's IPv6 address.
func (h *Host) Addr6() netip.Addr { return hostAddress(h.bed.state.Network, h.state.Index).V6.Addr() }

// Alive tells whether the host runs.
func (h *Host) Alive() bool { return h.state.Init.alive() }

// Path is where the machine finds a file of the running host. Symbolic links with
// absolute targets lead astray.
func (h *Host) Path(path string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", h.Pid()), path)
}

func (h *Host) cgroup() string { return h.bed.place.subgroup(h.Name) }

func (h *Host) target() child.Target { return child.Target{Pid: h.Pid(), Cgroup: h.cgroup()} }

// Command prepares a command that runs in the host, as root, in all its
// namespaces and its cgroup. Its environment is the host's; add to Env what it
// needs besides. If ctx ends the command is killed.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = hostEnv
	if len(argv) == 0 {
		cmd.Err = fmt.Errorf("host %s: no command given", h.Name)
		return cmd
	}
	if !h.Alive() {
		cmd.Err = fmt.Errorf("host %s does not run", h.Name)
		return cmd
	}
	enter, err := child.Enter(h.target(), argv)
	if err != nil {
		cmd.Err = err
		return cmd
	}
	cmd.Args, cmd.Dir = enter.Args, enter.Dir
	return cmd
}

// run runs a command in the host; a failure tells what the command said.
func (h *Host) run(ctx context.Context, argv ...string) (string, error) {
	return output(h.Command(ctx, argv...), h.Name, argv)
}

// Install copies a program into /usr/local/bin of the running host.
func (h *Host) Install(path, name string) error {
	if !h.Alive() {
		return fmt.Errorf("install %s: host %s does not run", name, h.Name)
	}
	target := h.Path(filepath.Join("/usr/local/bin", name))
	if err := copyFile(path, target, 0o755); err != nil {
		return fmt.Errorf("install %s in host %s: %w", name, h.Name, err)
	}
	return nil
}

// copyFile puts a copy in place in one step, so that a running program of the same
// name can be replaced.
func copyFile(from, to string, mode os.FileMode) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(to), ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(out.Name())
		}
	}()
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Chmod(mode); err != nil {
		_ = out.Close()
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), to)
}
