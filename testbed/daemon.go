package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"migrate/testbed/internal/child"
)

// A daemon is a program that a host can have at work.
type daemon struct {
	argv []string
	dirs []string // that must exist
	// listens is the socket that accepts connections, or the file that exists, when
	// the daemon is ready.
	socket, file string
}

var daemons = map[string]daemon{
	"containerd": {
		argv:   []string{"containerd", "--config", "/etc/containerd/config.toml"},
		socket: "/run/containerd/containerd.sock",
	},
	"sshd": {
		argv: []string{"/usr/sbin/sshd", "-D", "-e"},
		dirs: []string{"/run/sshd"},
		file: "/run/sshd.pid",
	},
	// dockerd is there for testbeds with Docker.
	dockerDaemon: {
		argv:   []string{dockerDaemon, "--containerd", "/run/containerd/containerd.sock"},
		socket: "/run/docker.sock",
	},
}

// startedDaemons run on every host from the start, and dockerd too where there is Docker.
var startedDaemons = []string{"containerd", "sshd"}

// daemonTimeout is how long a daemon may take to get ready, or to end.
const daemonTimeout = 30 * time.Second

// StartDaemon starts a daemon of the host and returns when it is ready. Its output
// is in /var/log/NAME.log of the host.
func (h *Host) StartDaemon(ctx context.Context, name string) error {
	d, err := findDaemon(name)
	if err != nil {
		return err
	}
	if running := h.daemon(name); running.alive() {
		return fmt.Errorf("host %s: %s runs already as process %d", h.Name, name, running.Pid)
	}
	for _, dir := range d.dirs {
		if err := os.MkdirAll(h.Path(dir), 0o755); err != nil {
			return fmt.Errorf("host %s: start %s: %w", h.Name, name, err)
		}
	}
	if d.file != "" {
		// It is the sign that the daemon is ready; an old one would lie.
		if err := os.Remove(h.Path(d.file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("host %s: start %s: %w", h.Name, name, err)
		}
	}
	p, err := h.launch(ctx, name, d.argv)
	if err != nil {
		return err
	}
	return h.awaitReady(ctx, name, d, p)
}

func findDaemon(name string) (daemon, error) {
	d, ok := daemons[name]
	if !ok {
		known := slices.Sorted(maps.Keys(daemons))
		return d, fmt.Errorf("daemon %q: known are %s", name, strings.Join(known, ", "))
	}
	return d, nil
}

// launch starts the daemon and writes its pid down.
func (h *Host) launch(ctx context.Context, name string, argv []string) (process, error) {
	cmd, err := child.EnterDetached(h.target(), daemonLog(name), argv)
	if err != nil {
		return process{}, err
	}
	cmd.Env = hostEnv
	printed, err := output(cmd, h.Name, argv)
	if err != nil {
		return process{}, err
	}
	pid, err := strconv.Atoi(printed)
	if err != nil {
		return process{}, fmt.Errorf("host %s: start %s: %w", h.Name, name, err)
	}
	p, err := processOf(pid)
	if err != nil {
		return process{}, fmt.Errorf("host %s: %s ended at once: %s", h.Name, name, h.lastWords(name))
	}
	data, err := json.Marshal(p)
	if err != nil {
		return p, err
	}
	if err := os.WriteFile(h.bed.place.daemon(h.Name, name), data, 0o644); err != nil {
		return p, fmt.Errorf("host %s: start %s: %w", h.Name, name, err)
	}
	return p, ctx.Err()
}

func daemonLog(name string) string { return "/var/log/" + name + ".log" }

func (h *Host) awaitReady(ctx context.Context, name string, d daemon, p process) error {
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	for !h.isReady(d) {
		if !p.alive() {
			return fmt.Errorf("host %s: %s ended: %s", h.Name, name, h.lastWords(name))
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("host %s: %s does not get ready: %w: %s", h.Name, name, err, h.lastWords(name))
		}
	}
	return nil
}

func (h *Host) isReady(d daemon) bool {
	if d.file != "" {
		_, err := os.Stat(h.Path(d.file))
		return err == nil
	}
	conn, err := net.Dial("unix", h.Path(d.socket))
	if err != nil {
		return false
	}
	return conn.Close() == nil
}

// lastWords is the end of a daemon's log.
func (h *Host) lastWords(name string) string {
	const much = 600
	log, err := os.ReadFile(h.Path(daemonLog(name)))
	if err != nil {
		return "it left no log"
	}
	return string(bytes.TrimSpace(log[max(0, len(log)-much):]))
}

// daemon is the process a daemon was started as; it may have ended.
func (h *Host) daemon(name string) process {
	var p process
	data, err := os.ReadFile(h.bed.place.daemon(h.Name, name))
	if err != nil || json.Unmarshal(data, &p) != nil {
		return process{}
	}
	return p
}

// Daemons are the running daemons of the host by name, with their pids.
func (h *Host) Daemons() map[string]int {
	running := map[string]int{}
	for name := range daemons {
		if p := h.daemon(name); p.alive() {
			running[name] = p.Pid
		}
	}
	return running
}

// KillDaemon kills a daemon, and only it, as a crash would, and returns when it
// is gone.
func (h *Host) KillDaemon(ctx context.Context, name string) error {
	if _, err := findDaemon(name); err != nil {
		return err
	}
	p := h.daemon(name)
	if !p.alive() {
		return fmt.Errorf("host %s: %s does not run", h.Name, name)
	}
	if err := syscall.Kill(p.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("host %s: kill %s: %w", h.Name, name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, daemonTimeout)
	defer cancel()
	for p.alive() {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("host %s: %s does not end: %w", h.Name, name, err)
		}
	}
	return nil
}

// pause waits a moment between two looks at something.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Millisecond):
		return nil
	}
}
