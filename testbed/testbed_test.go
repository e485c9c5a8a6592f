package testbed_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"migrate/testbed"
)

func TestMain(m *testing.M) {
	if code, ran := testbed.Child(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// bedName is of its own, beside testbeds that people have up.
const bedName = "mt-selftest"

// TestTestbed makes one testbed and looks at it from all sides.
func TestTestbed(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a testbed needs root")
	}
	workload := buildWorkload(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	bed, err := testbed.Up(ctx, testbed.Options{
		Name:     bedName,
		Hosts:    []string{"a", "b"},
		Images:   []string{testbed.ImageRedis, testbed.ImageTools},
		Workload: workload,
		Binaries: map[string]string{"workload": workload},
		Replace:  true,
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Down(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	b := &bedTest{bed: bed, ctx: ctx}
	t.Run("Namespaces", b.namespaces)
	t.Run("Network", b.network)
	t.Run("Cut", b.cut)
	t.Run("Rate", b.rate)
	t.Run("Command", b.command)
	t.Run("SSH", b.ssh)
	t.Run("Daemon", b.daemon)
	t.Run("Containers", b.containers)
	t.Run("CheckpointUnprivileged", b.checkpoint)
	t.Run("Running", b.running)
	t.Run("Down", b.down)
}

// buildWorkload compiles the test program for images and hosts.
func buildWorkload(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "workload")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "migrate/testbed/cmd/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("compile the workload: %v\n%s", err, out)
	}
	return path
}

type bedTest struct {
	bed *testbed.Testbed
	ctx context.Context
}

// try runs a command in a host.
func (b *bedTest) try(host string, argv ...string) (string, error) {
	out, err := b.bed.Host(host).Command(b.ctx, argv...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// run runs a command that must not fail.
func (b *bedTest) run(t *testing.T, host string, argv ...string) string {
	t.Helper()
	out, err := b.try(host, argv...)
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", host, strings.Join(argv, " "), err, out)
	}
	return out
}

func (b *bedTest) namespaces(t *testing.T) {
	for _, kind := range []string{"mnt", "pid", "net", "uts", "ipc", "cgroup"} {
		seen := map[string]string{}
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		seen[own] = "the machine"
		for _, h := range b.bed.Hosts() {
			ns := b.run(t, h.Name, "readlink", "/proc/self/ns/"+kind)
			if other, ok := seen[ns]; ok {
				t.Errorf("host %s shares its %s namespace with %s", h.Name, kind, other)
			}
			seen[ns] = h.Name
		}
	}
	if name := b.run(t, "a", "hostname"); name != "a" {
		t.Errorf("host a is called %q", name)
	}
	if init := b.run(t, "a", "cat", "/proc/1/cgroup"); strings.Contains(init, bedName) {
		t.Errorf("host a sees cgroups outside its own:\n%s", init)
	}
	if mounts := b.run(t, "a", "cat", "/proc/mounts"); strings.Contains(mounts, " /proc ") == false {
		t.Errorf("host a has no /proc:\n%s", mounts)
	}
}

func (b *bedTest) network(t *testing.T) {
	b.run(t, "a", "ping", "-c1", "-W2", "b")
	b.run(t, "a", "ping", "-c1", "-W2", b.bed.Host("b").Addr6().String())
	links, err := exec.Command("ip", "-o", "link").Output()
	if err == nil && strings.Contains(string(links), "port-a") {
		t.Errorf("the machine's network has the testbed's links:\n%s", links)
	}
}

func (b *bedTest) cut(t *testing.T) {
	host := b.bed.Host("b")
	if err := host.Cut(); err != nil {
		t.Fatal(err)
	}
	if out, err := b.try("a", "ping", "-c1", "-W1", "b"); err == nil {
		t.Errorf("a reaches b, which is cut off:\n%s", out)
	}
	if carrier := b.run(t, "b", "cat", "/sys/class/net/eth0/carrier"); carrier != "1" {
		t.Error("b notices that it is cut off: its link is down")
	}
	if err := host.Heal(); err != nil {
		t.Fatal(err)
	}
	b.run(t, "a", "ping", "-c1", "-W2", "b")
}

func (b *bedTest) rate(t *testing.T) {
	host := b.bed.Host("b")
	for _, step := range []struct{ rate, want string }{
		{"100mbit", "tbf 1: root refcnt"}, {"10gbit", "10Gbit"}, {"none", "noqueue"}, {"none", "noqueue"},
	} {
		if err := host.SetRate(step.rate); err != nil {
			t.Fatal(err)
		}
		if got := b.run(t, "b", "tc", "qdisc", "show", "dev", "eth0"); !strings.Contains(got, step.want) {
			t.Errorf("after rate %s tc shows %q", step.rate, got)
		}
		b.run(t, "a", "ping", "-c1", "-W2", "b")
	}
	if err := host.SetRate("fast"); err == nil {
		t.Error("rate fast is accepted")
	}
}

func (b *bedTest) command(t *testing.T) {
	var exit *exec.ExitError
	if _, err := b.try("a", "sh", "-c", "exit 7"); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit 7 gives %v", err)
	}
	if _, err := b.try("a", "no-such-command"); !errors.As(err, &exit) || exit.ExitCode() != 127 {
		t.Errorf("a command that is not there gives %v", err)
	}
	cat := b.bed.Host("a").Command(b.ctx, "cat")
	cat.Stdin = strings.NewReader("through")
	if out, err := cat.Output(); err != nil || string(out) != "through" {
		t.Errorf("cat gives %q, %v", out, err)
	}
	ctx, cancel := context.WithCancel(b.ctx)
	sleep := b.bed.Host("a").Command(ctx, "sleep", "4711")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	b.eventually(t, "the sleep runs", func() bool { _, err := b.try("a", "pgrep", "-f", "^sleep 4711"); return err == nil })
	cancel()
	_ = sleep.Wait()
	b.eventually(t, "the sleep has ended", func() bool { _, err := b.try("a", "pgrep", "-f", "^sleep 4711"); return err != nil })
}

func (b *bedTest) eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

func (b *bedTest) ssh(t *testing.T) {
	if name := b.run(t, "a", "ssh", "-o", "BatchMode=yes", "root@b", "hostname; which workload"); name != "b\n/usr/local/bin/workload" {
		t.Errorf("ssh to b answers %q", name)
	}
}

func (b *bedTest) daemon(t *testing.T) {
	host := b.bed.Host("b")
	if err := host.KillDaemon(b.ctx, "containerd"); err != nil {
		t.Fatal(err)
	}
	if _, running := host.Daemons()["containerd"]; running {
		t.Error("containerd runs after it was killed")
	}
	if err := host.StartDaemon(b.ctx, "containerd"); err != nil {
		t.Fatal(err)
	}
	b.run(t, "b", "ctr", "version")
	if err := host.StartDaemon(b.ctx, "containerd"); err == nil {
		t.Error("containerd can be started twice")
	}
}

func (b *bedTest) containers(t *testing.T) {
	for _, c := range []testbed.ContainerSpec{
		{ID: "on-none", Network: testbed.NetworkNone},
		{ID: "on-host", Network: testbed.NetworkHost},
		{ID: "on-cni", Network: testbed.NetworkCNI},
		{ID: "on-cni-ip", Network: testbed.NetworkCNI, IP: b.foreignAddress(), MAC: "02:00:00:00:00:2a"},
	} {
		t.Run(c.ID, func(t *testing.T) { b.container(t, c) })
	}
}

// foreignAddress is one that host b would not give out by itself.
func (b *bedTest) foreignAddress() string {
	prefix := strings.TrimSuffix(b.bed.Host("a").Addr().String(), "0.11")
	return prefix + "1.99"
}

func (b *bedTest) container(t *testing.T, spec testbed.ContainerSpec) {
	spec.Image = "testbed/tools:latest"
	spec.Args = []string{"workload", "server", "--memory-mib", "4", "--dirty-pages-per-sec", "100"}
	c, err := b.bed.Host("b").RunContainer(b.ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	b.eventually(t, "the container prints", func() bool {
		out, err := b.try("b", "cat", "/var/log/"+c.ID+".log")
		return err == nil && strings.Contains(out, "tick 2 ")
	})
	if spec.IP != "" && c.Addr.String() != spec.IP {
		t.Errorf("the container has %s, not %s", c.Addr, spec.IP)
	}
	if c.Addr.IsValid() {
		b.run(t, "a", "workload", "client", "--addr", "["+c.Addr6.String()+"]:7000", "--duration", "50ms")
		out := b.run(t, "a", "workload", "client", "--addr", c.Addr.String()+":7000", "--duration", "300ms", "--verify")
		if !strings.Contains(out, `"bad":0`) {
			t.Errorf("the client reports %s", out)
		}
	}
	if spec.Network == testbed.NetworkCNI {
		b.run(t, "b", "ip", "netns", "exec", c.ID, "ip", "link", "show", "eth0", "up")
		b.run(t, "b", "test", "-e", "/var/lib/cni/results/"+testbed.NetworkName+"-"+c.ID+"-eth0")
	}
	if err := c.Remove(b.ctx); err != nil {
		t.Error(err)
	}
	if left := b.run(t, "b", "ctr", "containers", "list", "--quiet"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// checkpoint dumps and restores a process of an unprivileged user, which CRIU
// cannot do everywhere without help.
func (b *bedTest) checkpoint(t *testing.T) {
	out := b.run(t, "a", "sh", "-euc", checkpointScript)
	if !strings.HasSuffix(out, "restored as user 999") {
		t.Errorf("the script ends with: %s", out)
	}
}

const checkpointScript = `
work=$(mktemp -d /var/lib/migrate-test.XXXXXX)
mkdir $work/rootfs $work/image
cd $work
ctr images mount --rw testbed/tools:latest rootfs >/dev/null
trap 'runc delete --force sample; umount $work/rootfs; rm -r $work' EXIT
runc spec
sed -i 's/"terminal": true/"terminal": false/; s/"uid": 0/"uid": 999/; s/"gid": 0/"gid": 999/; s/"sh"$/"sleep", "1000"/' config.json
runc run --detach sample </dev/null >/dev/null 2>&1
runc checkpoint --image-path image --work-path . sample || { tail -20 dump.log; exit 1; }
runc restore --detach --image-path image --work-path . sample </dev/null >/dev/null 2>&1 || { tail -20 restore.log; exit 1; }
pid=$(runc state sample | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
echo "restored as user $(stat -c %u /proc/$pid)"
`

func (b *bedTest) running(t *testing.T) {
	_, err := testbed.Up(b.ctx, testbed.Options{Name: bedName, Hosts: []string{"a", "b"}})
	if !errors.Is(err, testbed.ErrRunning) {
		t.Errorf("bringing it up again gives %v", err)
	}
	again, err := testbed.Open(bedName, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := again.Host("b").Addr(), b.bed.Host("b").Addr(); got != want {
		t.Errorf("opened again, b has the address %s, not %s", got, want)
	}
}

// down leaves a container running, so that there is something to take away.
func (b *bedTest) down(t *testing.T) {
	_, err := b.bed.Host("a").RunContainer(b.ctx, testbed.ContainerSpec{
		ID: "frozen", Image: "testbed/redis:latest", Network: testbed.NetworkCNI,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.run(t, "a", "ctr", "tasks", "pause", "frozen")
	for range 2 { // the second time there is nothing to do
		if err := b.bed.Down(b.ctx); err != nil {
			t.Fatal(err)
		}
		assertNothingLeft(t, bedName)
	}
	if err := b.bed.Host("a").Command(b.ctx, "true").Run(); err == nil {
		t.Error("a command runs in a host that is gone")
	}
}

func assertNothingLeft(t *testing.T, name string) {
	t.Helper()
	left, err := testbed.Leftovers(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range left {
		t.Errorf("left: %s", what)
	}
}

// TestInterrupted cancels Up at several moments.
func TestInterrupted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a testbed needs root")
	}
	for _, after := range []time.Duration{5, 20, 50, 100, 200} {
		name := fmt.Sprintf("mt-cancel-%d", after)
		ctx, cancel := context.WithTimeout(t.Context(), after*time.Millisecond)
		bed, err := testbed.Up(ctx, testbed.Options{Name: name, Hosts: []string{"a"}})
		cancel()
		if err == nil {
			err = bed.Down(context.WithoutCancel(ctx))
		} else if !errors.Is(err, context.DeadlineExceeded) {
			t.Logf("after %d ms: %v", after, err)
			err = nil
		} else {
			err = nil
		}
		if err != nil {
			t.Error(err)
		}
		assertNothingLeft(t, name)
	}
}
