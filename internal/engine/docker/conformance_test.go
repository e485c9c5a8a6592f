//go:build inhost

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"

	"migrate/internal/engine"
	"migrate/internal/engine/enginetest"
)

// The tests below need a host with Docker, its network "mt" and the image testbed/tools. Containers come from its daemon and go to a
// second one on the same host, which the tests start, and which has nothing of the first one's.
const (
	image        = "testbed/tools:latest"
	secondRoot   = "/var/lib/docker/second"
	secondExec   = "/run/docker2"
	secondSocket = "/run/docker2.sock"
	secondSpace  = "moby2"
	secondBridge = "docker2"
	secondConfig = "/etc/docker/second.json"
)

func TestMain(m *testing.M) {
	stop, err := startSecond()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	stop()
	os.Exit(code)
}

func startSecond() (stop func(), err error) {
	// what is on the command line must not be in the file
	config, err := os.ReadFile("/etc/docker/daemon.json")
	if err != nil {
		return nil, err
	}
	var options struct {
		Features map[string]bool `json:"features,omitempty"`
	}
	if err := json.Unmarshal(config, &options); err != nil {
		return nil, err
	}
	if config, err = json.Marshal(options); err != nil {
		return nil, err
	}
	if err := os.WriteFile(secondConfig, config, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command("dockerd", "--config-file", secondConfig, "--data-root", secondRoot, "--exec-root", secondExec, "--host", "unix://"+secondSocket,
		"--bridge", secondBridge, "--iptables=false", "--ip6tables=false",
		"--pidfile", "/run/docker2.pid", "--containerd", "/run/containerd/containerd.sock", "--containerd-namespace", secondSpace,
		"--containerd-plugins-namespace", "plugins.moby2", "--experimental")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for _, args := range [][]string{{"link", "add", secondBridge, "type", "bridge"}, {"address", "add", "172.31.99.1/24", "dev", secondBridge}, {"link", "set", secondBridge, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	log, err := os.Create("/var/log/dockerd2.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = exec.Command("ip", "link", "delete", secondBridge).Run()
	}
	for range 300 {
		if exec.Command("docker", "-H", "unix://"+secondSocket, "network", "ls").Run() == nil {
			_ = exec.Command("docker", "-H", "unix://"+secondSocket, "network", "rm", "mt").Run()
			out, err := exec.Command("docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", "mt").Output()
			if err == nil {
				_, err = exec.Command("docker", "-H", "unix://"+secondSocket, "network", "create", "--internal", "--subnet", strings.TrimSpace(string(out)), "mt").Output()
			}
			if err != nil {
				stop()
				return nil, fmt.Errorf("make the network of the second daemon: %w", err)
			}
			return stop, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	stop()
	return nil, fmt.Errorf("the second daemon does not get ready: see /var/log/dockerd2.log")
}

func TestConformance(t *testing.T) {
	mode := "host"
	if managed(t) {
		mode = "mt"
	}
	enginetest.Run(t, func(t *testing.T) *enginetest.Bench { return newBench(t, mode).suite() })
}

// TestDiscard takes away what a migration has left whose agent died at its furthest.
func TestDiscard(t *testing.T) {
	b := newBench(t, "host")
	c, _, err := b.src.Inspect(t.Context(), b.start(t, engine.StatusRunning))
	check(t, err)
	before := b.left(t)
	const id = "discarded"
	ctx, _, err := b.dst.Hold(t.Context(), id)
	check(t, err)
	missing, err := b.dst.MissingBlobs(ctx, c.Image)
	check(t, err)
	for _, blob := range missing {
		r, err := b.src.OpenBlob(ctx, blob)
		check(t, err)
		check(t, errors.Join(b.dst.IngestBlob(ctx, blob, r), r.Close()))
	}
	_, err = b.dst.PrepareImage(ctx, c)
	check(t, err)
	s, err := decodeSpec(c.Spec)
	check(t, err)
	s.Annotations = map[string]string{criuAnnotation: "/run/migrate/" + id + ".conf"}
	spec, err := json.Marshal(s)
	check(t, err)
	_, err = b.dst.Register(ctx, c, spec)
	check(t, err)
	for range 2 {
		check(t, b.dst.Discard(t.Context(), c, id))
	}
	if after := b.left(t); !slices.Equal(after, before) {
		t.Errorf("left is\n%s\nand was\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
}

// managed says whether this version of Docker restores containers with networks of their own.
func managed(t *testing.T) bool {
	t.Helper()
	e := open(t, Options{})
	info, err := e.daemon(t.Context())
	check(t, err)
	w, err := e.way(t.Context(), info)
	check(t, err)
	return w != joinedOnly
}

type bench struct {
	src, dst *Engine
	mode     string
}

var made atomic.Int64

func newBench(t *testing.T, mode string) *bench {
	b := &bench{mode: mode}
	dir := t.TempDir()
	b.src = open(t, Options{LockDir: filepath.Join(dir, "lock"), Spool: filepath.Join(dir, "spool"), Shields: filepath.Join(dir, "shielded")})
	b.dst = open(t, Options{
		Socket: secondSocket, Namespace: secondSpace, ExecRoot: secondExec, LockDir: filepath.Join(dir, "lock"), Spool: "/var/lib/migrate/docker2",
		Shields: filepath.Join(dir, "shielded"), PidFile: "/run/docker2.pid",
	})
	b.forgetImages(t)
	return b
}

// forgetImages takes away what containers that arrived earlier have left for good.
func (b *bench) forgetImages(t *testing.T) {
	t.Helper()
	all, err := b.dst.api.ImageList(t.Context(), client.ImageListOptions{})
	check(t, err)
	for _, i := range all.Items {
		_, err := b.dst.api.ImageRemove(t.Context(), i.ID, client.ImageRemoveOptions{Force: true, PruneChildren: true})
		check(t, err)
	}
}

func open(t *testing.T, o Options) *Engine {
	t.Helper()
	o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	e, err := New(t.Context(), o)
	check(t, err)
	t.Cleanup(func() { e.Close() })
	return e
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (b *bench) suite() *enginetest.Bench {
	return &enginetest.Bench{
		Source: b.src, Dest: b.dst, Start: b.start, Adapt: func(*testing.T, *engine.Container) {}, Left: b.left, Checkpoint: b.checkpoint,
	}
}

func (b *bench) start(t *testing.T, want engine.Status) string {
	t.Helper()
	name := fmt.Sprintf("w%d-%d", os.Getpid(), made.Add(1))
	t.Cleanup(func() { run(t, "docker", "rm", "-f", name) })
	run(t, "docker", "create", "--name", name, "--network", b.mode, "--restart", "always", "--label", "app=enginetest", image,
		"workload", "server", "--listen=", "--memory-mib", "1")
	if want == engine.StatusCreated {
		return name
	}
	run(t, "docker", "start", name)
	time.Sleep(300 * time.Millisecond) // let it become a process with something to lose
	switch want {
	case engine.StatusPaused:
		run(t, "docker", "pause", name)
	case engine.StatusStopped:
		run(t, "docker", "stop", "--time", "0", name)
	}
	return name
}

// checkpoint freezes the source, dumps it with runc and copies the RW layer, as an agent would.
func (b *bench) checkpoint(t *testing.T, c *engine.Container, h *engine.Handles, upper string) engine.Checkpoint {
	t.Helper()
	check(t, b.src.Pause(t.Context(), c.ID))
	images, work := t.TempDir(), t.TempDir()
	run(t, h.RuntimePath, "--root", h.RuntimeRoot, "checkpoint", "--leave-running", "--tcp-established", "--manage-cgroups-mode=soft",
		"--image-path", images, "--work-path", work, h.RuntimeID)
	run(t, "cp", "-a", h.Upper+"/.", upper)
	return engine.Checkpoint{ImagePath: images, WorkPath: t.TempDir()}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// hostSandbox is the daemon's own for the host's network, which it keeps from the first use on.
const hostSandbox = "default"

// left lists what the second daemon, and those below it, hold.
func (b *bench) left(t *testing.T) []string {
	t.Helper()
	ctx := context.Background()
	var left []string
	add := func(kind, name string) { left = append(left, kind+" "+name) }
	all, err := b.dst.api.ContainerList(ctx, client.ContainerListOptions{All: true})
	check(t, err)
	for _, c := range all.Items {
		add("container", c.ID)
	}
	images, err := b.dst.api.ImageList(ctx, client.ImageListOptions{All: true})
	check(t, err)
	for _, i := range images.Items {
		add("image", i.ID)
	}
	volumes, err := b.dst.api.VolumeList(ctx, client.VolumeListOptions{})
	check(t, err)
	for _, v := range volumes.Items {
		add("volume", v.Name)
	}
	b.leftInContainerd(t, add)
	for kind, pattern := range map[string]string{
		"image": "image/overlay2/layerdb/sha256/*", "file": "containers/*", "mount": "image/overlay2/layerdb/mounts/*", "image ": "overlay2/*",
	} {
		files, err := filepath.Glob(filepath.Join(secondRoot, pattern))
		check(t, err)
		for _, f := range files {
			if filepath.Base(f) != "l" {
				add(strings.TrimSpace(kind), f)
			}
		}
	}
	for _, pattern := range []string{"/var/lib/migrate/docker2/*", secondExec + "/runtime-runc/moby2/*"} {
		files, err := filepath.Glob(pattern)
		check(t, err)
		for _, f := range files {
			add("file", f)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; filepath.Base(at) != hostSandbox && (strings.Contains(at, "docker2") || strings.HasPrefix(at, secondRoot)) {
			add("mount", at)
		}
	}
	slices.Sort(left)
	return left
}

// leftInContainerd lists what the second daemon, and a migration, keep there.
func (b *bench) leftInContainerd(t *testing.T, add func(kind, name string)) {
	t.Helper()
	for kind, args := range map[string][]string{
		"lease": {"leases", "ls", "-q"}, "image": {"images", "ls", "-q"}, "blob": {"content", "ls", "-q"}, "ingest": {"content", "active"}, "snapshot": {"snapshots", "ls"},
	} {
		out, err := exec.Command("ctr", append([]string{"-n", secondSpace}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ctr %v: %v\n%s", args, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) > 0 && f[0] != "KEY" && f[0] != "REF" {
				add(kind, f[0])
			}
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
