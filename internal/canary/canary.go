package canary

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/criu"
)

// Options of one canary.
type Options struct {
	Dir     string   // e.g. /run/migrate; made if need be
	Runtime string   // "" for runc
	Self    []string // how to run this program as the canary: its binary, then arguments; see Hold
}

// limit bounds a canary's whole life, and tidyLimit its end.
const (
	limit     = 60 * time.Second
	tidyLimit = 20 * time.Second
)

// canary is one on its way.
type canary struct {
	runtime string
	dir     string // of this canary alone
	id      string
}

// Run starts, dumps, restores and ends a canary. The error says which step failed and what CRIU said, with a remedy where one is
// known.
func Run(ctx context.Context, o Options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := prepare(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.tidy()) }()
	if err := c.do(ctx, "start", "run", "--detach", "--bundle", c.at("bundle"), c.id); err != nil {
		return err
	}
	if err := c.do(ctx, "dump", "checkpoint", "--image-path", c.at("images"), "--work-path", c.at("work"), c.id); err != nil {
		return c.explain(err, "dump.log")
	}
	if err := c.do(ctx, "restore", "restore", "--detach", "--bundle", c.at("bundle"), "--image-path", c.at("images"), "--work-path", c.at("work"), c.id); err != nil {
		return c.explain(err, "restore.log")
	}
	return c.running(ctx)
}

// prepare makes bundle and directories.
func prepare(o Options) (*canary, error) {
	if len(o.Self) == 0 {
		return nil, errors.New("it is not known how to run the canary")
	}
	var id [6]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	c := &canary{runtime: o.Runtime, id: "migrate-canary-" + hex.EncodeToString(id[:])}
	if c.runtime == "" {
		c.runtime = "runc"
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the canary's directory: %w", err)
	}
	var err error
	if c.dir, err = os.MkdirTemp(o.Dir, "canary-"); err != nil {
		return nil, fmt.Errorf("make the canary's directory: %w", err)
	}
	for _, dir := range []string{"bundle/rootfs", "images", "work", "root"} {
		if err := os.MkdirAll(c.at(dir), 0o700); err != nil {
			return nil, errors.Join(fmt.Errorf("make the canary's directory: %w", err), os.RemoveAll(c.dir))
		}
	}
	if err := c.bundle(o.Self); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	return c, nil
}

func (c *canary) at(name string) string { return filepath.Join(c.dir, name) }

// bundle writes the container's specification, with this program bound into an empty root.
func (c *canary) bundle(self []string) error {
	exe, err := filepath.EvalSymlinks(self[0])
	if err != nil {
		return fmt.Errorf("find the canary's program: %w", err)
	}
	s := specification(append([]string{"/canary"}, self[1:]...), filepath.Join("/", c.id))
	s.Mounts = append(s.Mounts, bind(exe, "/canary"))
	dirs, links := libraries(exe)
	for _, dir := range dirs {
		s.Mounts = append(s.Mounts, bind(dir, dir))
	}
	for from, to := range links {
		if err := os.Symlink(to, c.at(filepath.Join("bundle/rootfs", from))); err != nil {
			return fmt.Errorf("make a link for the canary: %w", err)
		}
	}
	text, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the canary's specification: %w", err)
	}
	if err := os.WriteFile(c.at("bundle/config.json"), text, 0o600); err != nil {
		return fmt.Errorf("write the canary's specification: %w", err)
	}
	return nil
}

func bind(from, to string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"bind", "ro"}}
}

// libraries are the directories that a program needs which is not linked statically, and the links that lead there, all at
// paths of the host. CRIU does not follow links to what is bound.
func libraries(exe string) (dirs []string, links map[string]string) {
	f, err := elf.Open(exe)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	if !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return nil, nil
	}
	links = map[string]string{}
	for _, dir := range []string{"/usr/lib", "/usr/lib64", "/lib", "/lib64"} {
		real, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		if !slices.Contains(dirs, real) {
			dirs = append(dirs, real)
		}
		if real != dir && filepath.Dir(dir) == "/" {
			links[dir] = real
		}
	}
	return dirs, links
}

func specification(args []string, cgroup string) specs.Spec {
	return specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/"}, NoNewPrivileges: true},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
			},
		},
	}
}

// do runs the runtime. Its output is a file: what is started in the background keeps it open.
func (c *canary) do(ctx context.Context, step string, args ...string) error {
	out, err := os.Create(c.at(step + ".out"))
	if err != nil {
		return fmt.Errorf("%s the canary: %w", step, err)
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, c.runtime, append([]string{"--root", c.at("root")}, args...)...)
	if step == "dump" {
		cmd.Stdout, cmd.Stderr = out, out
	} else {
		// what the container inherits has to be there at the restore, on any host
		cmd.Args = append(cmd.Args[:1], append([]string{"--log", c.at(step + ".out")}, cmd.Args[1:]...)...)
	}
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(c.at(step + ".out"))
		if line := lastLine(said); line != "" {
			return fmt.Errorf("%s the canary: %s", step, line)
		}
		return fmt.Errorf("%s the canary: %w", step, err)
	}
	return nil
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// explain adds what CRIU's log says.
func (c *canary) explain(err error, log string) error {
	cause, cerr := criu.FirstCause(c.at(filepath.Join("work", log)))
	if cerr != nil {
		return errors.New(criu.Unexplained(err.Error()))
	}
	text := cause.String()
	if cause.Remedy != "" {
		text += "; " + cause.Remedy
	}
	step, _, _ := strings.Cut(err.Error(), ":")
	return fmt.Errorf("%s: %s", step, text)
}

// running sees the restored canary run.
func (c *canary) running(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, c.runtime, "--root", c.at("root"), "state", c.id).Output()
	if err != nil {
		return fmt.Errorf("look at the restored canary: %w", err)
	}
	var state struct {
		Status string `json:"status"`
		Pid    int    `json:"pid"`
	}
	if err := json.Unmarshal(out, &state); err != nil {
		return fmt.Errorf("look at the restored canary: %w", err)
	}
	if state.Status != "running" || state.Pid == 0 {
		return fmt.Errorf("the restored canary is %s instead of running", state.Status)
	}
	return nil
}

// tidy ends what is there of the canary.
func (c *canary) tidy() error {
	ctx, cancel := context.WithTimeout(context.Background(), tidyLimit)
	defer cancel()
	var errs []error
	if entries, err := os.ReadDir(c.at("root")); err == nil && len(entries) > 0 {
		if out, err := exec.CommandContext(ctx, c.runtime, "--root", c.at("root"), "delete", "--force", c.id).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("end the canary: %w: %s", err, lastLine(out)))
		}
	}
	if len(errs) == 0 {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	return errors.Join(errs...)
}

// Hold is the canary itself. It never returns of its own accord.
func Hold() int {
	memory := make([]byte, 4<<20)
	for i := range memory {
		memory[i] = byte(i)
	}
	for i := 0; ; i = (i + 4096) % len(memory) {
		time.Sleep(50 * time.Millisecond)
		memory[i]++
	}
}
