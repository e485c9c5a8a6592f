//go:build inhost

package containerd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containernetworking/cni/libcni"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/cni"
	"migrate/internal/engine"
	"migrate/internal/engine/enginetest"
)

// Where the tests below find a daemon. They make containers in namespaces of their own, and remove them.
const (
	addressEnv = "MIGRATE_CONTAINERD_ADDRESS"
	networkEnv = "MIGRATE_CNI_NETWORK" // name of the CNI network; "mt" when unset

	sourceNamespace = "enginetest-src"
	destNamespace   = "enginetest-dst"
	workloadEnv     = "MIGRATE_TEST_WORKLOAD"
)

// TestMain turns the test binary into the workload when a container runs it: the image holds nothing else.
func TestMain(m *testing.M) {
	if os.Getenv(workloadEnv) != "" {
		workload()
	}
	os.Exit(m.Run())
}

// workload writes a line to its output and to a file now and then.
func workload() {
	for n := 0; ; n++ {
		fmt.Println("tick", n)
		os.WriteFile("/ticks", fmt.Appendf(nil, "%d\n", n), 0o644)
		time.Sleep(100 * time.Millisecond)
	}
}

func address(t *testing.T) string {
	t.Helper()
	addr := os.Getenv(addressEnv)
	if addr == "" {
		t.Skipf("SKIPPED: set %s to a containerd socket to run this test, as root, on a host with runc, CRIU and a CNI "+
			"network \"mt\" (or the one named by %s): CGO_ENABLED=0 go test -c ./internal/engine/containerd and run it there",
			addressEnv, networkEnv)
	}
	return addr
}

func TestConformance(t *testing.T) {
	addr := address(t)
	for _, mode := range []engine.NetworkMode{engine.NetworkNone, engine.NetworkCNI, engine.NetworkHost} {
		t.Run(string(mode), func(t *testing.T) {
			enginetest.Run(t, func(t *testing.T) *enginetest.Bench { return newBench(t, addr, mode).suite() })
		})
	}
}

// bench makes containers on one host in one namespace, and receives them in another.
type bench struct {
	client    *client.Client
	src, dst  *Engine
	mode      engine.NetworkMode
	terminal  bool
	network   string
	image     client.Image
	directory string
}

var made atomic.Int64

func newBench(t *testing.T, addr string, mode engine.NetworkMode) *bench {
	t.Helper()
	b := &bench{mode: mode, network: os.Getenv(networkEnv), directory: t.TempDir()}
	if b.network == "" {
		b.network = "mt"
	}
	b.src, b.dst = b.open(t, addr, sourceNamespace), b.open(t, addr, destNamespace)
	var err error
	if b.client, err = client.New(addr, client.WithDefaultNamespace(sourceNamespace)); err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { b.client.Close() })
	b.forgetImages(t)
	b.image = importImage(t, b.client)
	return b
}

// forgetImages takes away what containers that arrived earlier have left for good.
func (b *bench) forgetImages(t *testing.T) {
	t.Helper()
	ctx := namespaces.WithNamespace(context.Background(), destNamespace)
	all, err := b.dst.client.ImageService().List(ctx)
	check(t, err)
	for _, i := range all {
		check(t, b.dst.client.ImageService().Delete(ctx, i.Name, images.SynchronousDelete()))
	}
}

func (b *bench) open(t *testing.T, addr, namespace string) *Engine {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	e, err := New(t.Context(), Options{
		Address: addr, Namespace: namespace, LogDir: b.directory, LockDir: filepath.Join(b.directory, "lock"), Logger: log,
	})
	if err != nil {
		t.Fatalf("New: %v", err)
	}
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
		Source: b.src, Dest: b.dst, Start: b.start, Adapt: b.adapt, Left: b.left, Checkpoint: b.checkpoint,
	}
}

// sourceContext outlives the test's own, which is cancelled before its clean-ups.
func sourceContext() context.Context {
	return namespaces.WithNamespace(context.Background(), sourceNamespace)
}

// start makes a container that is in the given state.
func (b *bench) start(t *testing.T, want engine.Status) string {
	t.Helper()
	ctx := sourceContext()
	id := fmt.Sprintf("w%d-%d", os.Getpid(), made.Add(1))
	opts := []oci.SpecOpts{
		oci.WithProcessArgs("/workload"), oci.WithEnv([]string{workloadEnv + "=1"}), oci.WithCgroup("/" + sourceNamespace + "/" + id),
	}
	switch b.mode {
	case engine.NetworkHost:
		opts = append(opts, oci.WithHostNamespace(specs.NetworkNamespace))
	case engine.NetworkCNI:
		opts = append(opts, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: b.attach(t, id)}))
	}
	if b.terminal {
		opts = append(opts, oci.WithTTY)
	}
	c, err := b.client.NewContainer(ctx, id,
		client.WithImage(b.image), client.WithSnapshotter("overlayfs"), client.WithNewSnapshot(id, b.image),
		client.WithRuntime("io.containerd.runc.v2", nil), client.WithContainerLabels(map[string]string{"app": "enginetest"}),
		client.WithNewSpec(opts...))
	if err != nil {
		t.Fatalf("make container: %v", err)
	}
	t.Cleanup(func() { b.src.Retire(context.Background(), id, false) })
	b.bring(t, c, want)
	return id
}

func (b *bench) bring(t *testing.T, c client.Container, want engine.Status) {
	t.Helper()
	if want == engine.StatusStopped {
		return
	}
	ctx := sourceContext()
	creator := cio.LogFile(filepath.Join(b.directory, c.ID()+".log"))
	if b.terminal {
		console := cio.Config{Terminal: true, Stdout: terminalLog(fileURI(filepath.Join(b.directory, c.ID()+".log")))}
		creator = func(string) (cio.IO, error) { return handed{console}, nil }
	}
	task, err := c.NewTask(ctx, creator)
	if err != nil {
		t.Fatalf("make task: %v", err)
	}
	if want == engine.StatusCreated {
		return
	}
	if err := task.Start(ctx); err != nil {
		t.Fatalf("start: %v", err)
	}
	time.Sleep(300 * time.Millisecond) // let it become a process with something to lose
	if want == engine.StatusPaused {
		if err := task.Pause(ctx); err != nil {
			t.Fatalf("pause: %v", err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// attach makes a namespace with an interface the way users do: by CNI, without a wish for an address.
func (b *bench) attach(t *testing.T, id string) string {
	t.Helper()
	path := "/run/netns/" + id
	if err := cni.NewNamespace(path); err != nil {
		t.Fatalf("make namespace: %v", err)
	}
	t.Cleanup(func() { cni.RemoveNamespace(path) })
	list, err := libcni.LoadConfList(cni.DefaultConfDir, b.network)
	if err != nil {
		t.Fatalf("load CNI network: %v", err)
	}
	lib := libcni.NewCNIConfig([]string{cni.DefaultBinDir, "/usr/lib/cni"}, nil)
	if _, err := lib.AddNetworkList(t.Context(), list, &libcni.RuntimeConf{ContainerID: id, NetNS: path, IfName: "eth0"}); err != nil {
		t.Fatalf("attach: %v", err)
	}
	return path
}

// adapt gives the container what it cannot share with its source on the same host.
func (b *bench) adapt(t *testing.T, c *engine.Container) {
	t.Helper()
	old, n := c.ID, int(made.Add(1))
	c.Rename(fmt.Sprintf("moved%d-%d", os.Getpid(), n))
	for i := range c.Network.Attachments {
		a := &c.Network.Attachments[i]
		a.MAC = fmt.Sprintf("02:00:00:00:%02x:%02x", n>>8&0xff, n&0xff)
		for j, ip := range a.IPs {
			p := netip.MustParsePrefix(ip)
			raw := p.Addr().AsSlice()
			raw[len(raw)-1] = byte(100 + n%100)
			addr, _ := netip.AddrFromSlice(raw)
			a.IPs[j] = netip.PrefixFrom(addr, p.Bits()).String()
		}
	}
	c.Spec = json.RawMessage(strings.NewReplacer(
		"/"+sourceNamespace+"/"+old, "/"+destNamespace+"/"+c.ID, "/run/netns/"+old, c.Network.NetNS).Replace(string(c.Spec)))
}

// checkpoint freezes the source, dumps it with runc and copies the RW layer, as an agent would.
func (b *bench) checkpoint(t *testing.T, c *engine.Container, h *engine.Handles, upper string) engine.Checkpoint {
	t.Helper()
	if err := b.src.Pause(t.Context(), h.RuntimeID); err != nil {
		t.Fatalf("Pause: %v", err)
	}
	images, work := t.TempDir(), t.TempDir()
	run(t, h.RuntimePath, "--root", h.RuntimeRoot, "checkpoint", "--leave-running", "--tcp-established", "--manage-cgroups-mode=soft",
		"--image-path", images, "--work-path", work, h.RuntimeID)
	run(t, "cp", "-a", h.Upper+"/.", upper)
	return engine.Checkpoint{ImagePath: images, WorkPath: t.TempDir(), Stdio: c.Stdio}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// left lists what the destination namespace, CNI and the mount table hold.
func (b *bench) left(t *testing.T) []string {
	t.Helper()
	ctx := namespaces.WithNamespace(context.Background(), destNamespace)
	var left []string
	add := func(kind, name string) { left = append(left, kind+" "+name) }
	all, err := b.dst.client.ContainerService().List(ctx)
	check(t, err)
	for _, c := range all {
		add("container", c.ID)
	}
	imgs, err := b.dst.client.ImageService().List(ctx)
	check(t, err)
	for _, i := range imgs {
		add("image", i.Name)
	}
	check(t, b.dst.client.ContentStore().Walk(ctx, func(i content.Info) error { add("blob", i.Digest.String()); return nil }))
	check(t, b.dst.snapshotter("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error { add("snapshot", i.Name); return nil }))
	held, err := b.dst.client.LeasesService().List(ctx)
	check(t, err)
	for _, l := range held {
		add("lease", l.ID)
	}
	for _, pattern := range []string{"/run/netns/*", "/var/lib/cni/results/*", "/var/lib/cni/networks/*/*.*.*", fifoDir + "/*", "/run/containerd/runc/" + destNamespace + "/*",
		"/sys/fs/cgroup/*/" + destNamespace + "/moved*", "/run/containerd/io.containerd.runtime.v2.task/" + destNamespace + "/*"} {
		for _, file := range must(filepath.Glob(pattern)) {
			add("file", file)
		}
	}
	for line := range strings.Lines(string(must(os.ReadFile("/proc/self/mountinfo")))) {
		add("mount", strings.Fields(line)[4])
	}
	slices.Sort(left)
	return left
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTerminalGoesOn restores a container with a terminal and looks for output that it makes afterwards.
func TestTerminalGoesOn(t *testing.T) {
	b := newBench(t, address(t), engine.NetworkNone)
	b.terminal = true
	testOutputGoesOn(t, b, func(engine.Stdio) engine.Stdio {
		return engine.Stdio{Terminal: true, Stdin: "/run/containerd/fifo/1/in", Stdout: "/run/containerd/fifo/1/out"}
	})
}

// TestFIFOBecomesLog restores one whose streams were FIFOs of a client that stayed behind.
func TestFIFOBecomesLog(t *testing.T) {
	b := newBench(t, address(t), engine.NetworkNone)
	testOutputGoesOn(t, b, func(s engine.Stdio) engine.Stdio {
		return engine.Stdio{Stdin: "/run/containerd/fifo/1/in", Stdout: "/run/containerd/fifo/1/out", Stderr: "/run/containerd/fifo/1/err"}
	})
}

func testOutputGoesOn(t *testing.T, b *bench, streams func(engine.Stdio) engine.Stdio) {
	t.Helper()
	ctx := t.Context()
	c, h, err := b.src.Inspect(ctx, b.start(t, engine.StatusRunning))
	check(t, err)
	b.adapt(t, c)
	c.Stdio = streams(c.Stdio)
	undo := b.restore(t, c, h)
	defer undo()
	file := filepath.Join(b.directory, destNamespace+"-"+c.ID+".log")
	before, _ := os.ReadFile(file)
	time.Sleep(500 * time.Millisecond)
	after, err := os.ReadFile(file)
	check(t, err)
	if len(after) <= len(before) || !strings.Contains(string(after), "tick") {
		t.Errorf("%s grew from %d to %d bytes", file, len(before), len(after))
	}
}

// restore moves the container and returns what takes it away again.
func (b *bench) restore(t *testing.T, c *engine.Container, h *engine.Handles) (undo func()) {
	t.Helper()
	ctx, release, err := b.dst.Hold(t.Context(), c.ID)
	check(t, err)
	for _, blob := range must(b.dst.MissingBlobs(ctx, c.Image)) {
		r, err := b.src.OpenBlob(ctx, blob)
		check(t, err)
		check(t, b.dst.IngestBlob(ctx, blob, r))
		r.Close()
	}
	_, err = b.dst.PrepareImage(ctx, c)
	check(t, err)
	upper, _, err := b.dst.PrepareRootfs(ctx, c)
	check(t, err)
	undo = func() {
		check(t, b.dst.Retire(context.Background(), c.ID, false))
		check(t, release(context.Background()))
	}
	cp := b.checkpoint(t, c, h, upper)
	_, err = b.dst.Register(ctx, c, c.Spec)
	check(t, err)
	if _, err = b.dst.PrepareTask(ctx, c, cp); err == nil {
		_, err = b.dst.StartTask(ctx, c)
	}
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(cp.WorkPath, "restore.log"))
		undo()
		t.Fatalf("restore: %v\n%s", err, tail(string(log), 3000))
	}
	return undo
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// TestStartTaskReturnsOnCancel holds a restore by a hook that waits, cancels, and lets the undo tidy up.
func TestStartTaskReturnsOnCancel(t *testing.T) {
	b := newBench(t, address(t), engine.NetworkNone)
	c, h, err := b.src.Inspect(t.Context(), b.start(t, engine.StatusRunning))
	check(t, err)
	b.adapt(t, c)
	before := b.left(t)
	hold, release, err := b.dst.Hold(t.Context(), c.ID)
	check(t, err)
	image, err := b.dst.PrepareImage(withBlobs(hold, t, b, c), c)
	check(t, err)
	upper, rootfs, err := b.dst.PrepareRootfs(hold, c)
	check(t, err)
	cp := b.checkpoint(t, c, h, upper)
	spec, letGo := heldByHook(t, c.Spec)
	record, err := b.dst.Register(hold, c, spec)
	check(t, err)
	task, err := b.dst.PrepareTask(hold, c, cp)
	check(t, err)

	ctx, cancel := context.WithTimeout(hold, time.Second)
	defer cancel()
	began := time.Now()
	if _, err := b.dst.StartTask(ctx, c); err == nil {
		t.Error("StartTask returned success although the restore is held")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("StartTask returned %v after it began, its context ended after 1s", took)
	}
	letGo()
	began = time.Now()
	for _, undo := range []engine.Undo{task, record, rootfs, image, release} {
		check(t, undo(context.Background()))
	}
	t.Logf("undos took %v", time.Since(began))
	for _, thing := range b.left(t) {
		if !slices.Contains(before, thing) {
			t.Errorf("left behind: %s", thing)
		}
	}
}

func withBlobs(ctx context.Context, t *testing.T, b *bench, c *engine.Container) context.Context {
	t.Helper()
	for _, blob := range must(b.dst.MissingBlobs(ctx, c.Image)) {
		r, err := b.src.OpenBlob(ctx, blob)
		check(t, err)
		check(t, b.dst.IngestBlob(ctx, blob, r))
		r.Close()
	}
	return ctx
}

// heldByHook gives the specification a CRIU configuration whose hook waits until letGo and then fails.
func heldByHook(t *testing.T, spec json.RawMessage) (held json.RawMessage, letGo func()) {
	t.Helper()
	dir := t.TempDir()
	fifo, script, conf := filepath.Join(dir, "fifo"), filepath.Join(dir, "hook"), filepath.Join(dir, "criu.conf")
	check(t, syscall.Mkfifo(fifo, 0o600))
	check(t, os.WriteFile(script, []byte("#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" = post-restore ] || exit 0\nread x <"+fifo+"\nexit 1\n"), 0o755))
	check(t, os.WriteFile(conf, []byte("action-script "+script+"\n"), 0o644))
	var s specs.Spec
	check(t, json.Unmarshal(spec, &s))
	if s.Annotations == nil {
		s.Annotations = map[string]string{}
	}
	s.Annotations["org.criu.config"] = conf
	return must(json.Marshal(s)), func() {
		w, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		check(t, err)
		io.WriteString(w, "go\n")
		w.Close()
	}
}

// TestRestartLabelsAreHeldBack looks at the record between Register and Adopt.
func TestRestartLabelsAreHeldBack(t *testing.T) {
	b := newBench(t, address(t), engine.NetworkNone)
	c, _, err := b.src.Inspect(t.Context(), b.start(t, engine.StatusRunning))
	check(t, err)
	b.adapt(t, c)
	c.Labels[restartStatus] = "running"
	record := func() containers.Container {
		return must(b.dst.client.ContainerService().Get(namespaces.WithNamespace(t.Context(), destNamespace), c.ID))
	}
	undo, err := b.dst.Register(t.Context(), c, c.Spec)
	check(t, err)
	defer undo(context.Background())
	if got, there := record().Labels[restartStatus]; there {
		t.Errorf("restart label is %q before the container was adopted", got)
	}
	check(t, b.dst.Adopt(t.Context(), c))
	if got := record().Labels[restartStatus]; got != "running" {
		t.Errorf("restart label is %q after the container was adopted", got)
	}
	t.Cleanup(func() { b.forgetImages(t) })
}
