package gather

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/preflight"
)

// workload is the program that holds things, built once.
var workload = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gather-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "workload")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", path, "migrate/testbed/cmd/workload")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build workload: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := workload(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: namespaces and other processes' descriptors need root")
	}
}

// holder is a process in namespaces of its own that holds something, as a container's first process would.
type holder struct {
	pid  int
	pids []int
	held []heldThing
}

type heldThing struct {
	Kind string
	FD   int
	Pid  int // in the holder's own pid namespace
}

// hold starts one; dir is its directory.
func hold(t testing.TB, dir string, kinds ...string) *holder {
	t.Helper()
	return holdAlso(t, dir, nil, kinds...)
}

// holdAlso hands it files as well, from descriptor 3 on.
func holdAlso(t testing.TB, dir string, files []*os.File, kinds ...string) *holder {
	t.Helper()
	needRoot(t)
	path, err := workload()
	must(t, err)
	args := []string{"hold", "--dir", dir}
	for _, k := range kinds {
		args = append(args, "--kind", k)
	}
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL,
	}
	cmd.ExtraFiles, cmd.Env = files, append(os.Environ(), "HOLD_PRIVILEGED=1") // namespaces without one for users
	out, err := cmd.StdoutPipe()
	must(t, err)
	var said strings.Builder
	cmd.Stderr = &said
	startTied(t, cmd)
	h := &holder{pid: cmd.Process.Pid}
	for r := bufio.NewReader(out); len(h.held) < len(kinds); {
		line, err := r.ReadBytes('\n')
		if err != nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Skipf("SKIPPED: this kernel lets nobody hold %v: %s", kinds, said.String())
		}
		var k heldThing
		must(t, json.Unmarshal(line, &k))
		h.held = append(h.held, k)
	}
	h.pids = descendants(t, h.pid)
	return h
}

// startTied starts a process that dies with this one. It would die with the thread that started it, and threads end that were in other namespaces.
func startTied(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	started, done := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		<-done
	}()
	must(t, <-started)
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait(); close(done) })
}

// descendants lists a process and all that it started, as a cgroup would: without those that have ended.
func descendants(t testing.TB, pid int) []int {
	t.Helper()
	pids := []int{pid}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(t, err)
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, word := range strings.Fields(string(text)) {
			var child int
			_, err := fmt.Sscan(word, &child)
			must(t, err)
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child)); err == nil && !strings.Contains(string(stat), ") Z ") {
				pids = append(pids, descendants(t, child)...)
			}
		}
	}
	return pids
}

func (h *holder) options() Options {
	o := Options{Init: h.pid, Pids: h.pids, GhostLimit: 1 << 20, LazyLimit: 1 << 40, Spec: preflight.Spec{Own: []string{"pid", "mount", "ipc", "uts"}}}
	for _, fd := range []int{1, 2} {
		link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", h.pid, fd))
		o.Passed = append(o.Passed, link)
	}
	return o
}

// judge gathers and judges. Findings about the host of the test are left out, whose own mounts may be of any kind, and about descriptors
// that whoever started the test handed down: they are from outside indeed.
func (h *holder) judge(t testing.TB) []preflight.Finding {
	t.Helper()
	return slices.DeleteFunc(h.judgeAll(t), func(f preflight.Finding) bool {
		return f.Code == "mount-type" || f.Thing.FD != nil && slices.Contains(handedDown(t), *f.Thing.FD)
	})
}

func (h *holder) judgeAll(t testing.TB) []preflight.Finding {
	t.Helper()
	c, err := Container(t.Context(), h.options())
	must(t, err)
	return preflight.Judge(c)
}

var (
	handedDownOnce sync.Once
	handedDownFDs  []int
)

// handedDown are the descriptors of which something is found although nothing is held.
func handedDown(t testing.TB) []int {
	handedDownOnce.Do(func() {
		h := hold(t, t.TempDir(), "sleep")
		c, err := Container(t.Context(), h.options())
		must(t, err)
		for _, f := range preflight.Judge(c) {
			if f.Thing.FD != nil {
				handedDownFDs = append(handedDownFDs, *f.Thing.FD)
			}
		}
	})
	return handedDownFDs
}

// Each kind, held by a real process, is found on the very descriptor; "" stands for kinds that are fine.
func TestKindsAreFound(t *testing.T) {
	onOverlay := ""
	var st unix.Statfs_t
	must(t, unix.Statfs(os.TempDir(), &st))
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		onOverlay = "fsnotify"
	}
	for kind, code := range map[string]string{
		"mptcp": "socket-mptcp", "mptcp-closed": "socket-mptcp", "vsock": "socket-family",
		"raw": "", "packet": "", "netlink": "", "uevent": "", "udp": "", "nl-waiting": "netlink-waiting",
		"unix-pair": "", "unix-waiting": "", "unix-in-flight": "unix-waiting", "unix-half": "", "scm": "",
		"io_uring": "io-uring", "userfaultfd": "kernel-object", "perf": "kernel-object", "kvm": "kernel-object", "landlock": "kernel-object", "seccomp-notify": "kernel-object",
		"bpf": "bpf-map", "pidfd": "", "pidfd-thread": "pidfd-thread", "memfd": "", "memfd-sealed": "", "memfd-secret": "secret-memory",
		"eventfd": "", "epoll": "", "timerfd": "", "signalfd": "", "aio": "", "null": "", "urandom": "", "tun": "", "device": "device",
		"inotify": onOverlay, "inotify-proc": "fsnotify", "inotify-tmpfs": "", "fanotify": "", "pipe": "", "pipe-packet": "pipe-packet", "fifo": "",
		"ghost": "", "ghost-large": "file-deleted-large", "ghost-sparse": "", "renamed": "", "removed-dir": "", "flock": "", "posix-lock": "", "ofd-lock": "", "lease": "lease",
		"mqueue": "file-outside", "zombie": "", "traced": "traced", "vfork": "vfork", "uninterruptible": "uninterruptible", "hidden": "file-hidden",
		"pidns": "nested-namespace", "utsns": "nested-namespace", "ipcns": "nested-namespace", "shm": "", "sem": "", "msg": "",
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := hold(t, t.TempDir(), kind)
			fs := h.judge(t)
			if code == "" {
				if len(fs) > 0 {
					t.Fatalf("found %s", fs[0].Text())
				}
				return
			}
			i := slices.IndexFunc(fs, func(f preflight.Finding) bool { return f.Code == code })
			if i < 0 {
				t.Fatalf("no %s among %v", code, fs)
			}
			f := fs[i]
			if f.Thing.Pid == 0 || f.Thing.Comm == "" || f.Remedy == "" || f.State != preflight.StillRunning {
				t.Errorf("the finding is not complete: %+v", f)
			}
			if fd := h.held[0].FD; fd >= 0 && kind != "unix-in-flight" && kind != "pipe-packet" && (f.Thing.FD == nil || *f.Thing.FD != fd) {
				t.Errorf("found on %s, want descriptor %d", f.Thing, fd)
			}
		})
	}
}

// What somebody outside holds the other end of, and what was opened on a mount that is gone.
func TestOutside(t *testing.T) {
	dir := t.TempDir()
	needRoot(t)
	l, err := net.Listen("unix", filepath.Join(dir, "outside.sock"))
	must(t, err)
	defer l.Close()
	h := hold(t, dir, "unix-outside")
	fs := h.judge(t)
	if !slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == "unix-outside" && *f.Thing.FD == h.held[0].FD }) {
		t.Errorf("found %v", fs)
	}
	// it waits to be accepted so far
	accepted, err := l.Accept()
	must(t, err)
	defer accepted.Close()
	if fs := h.judge(t); !slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == "unix-outside" && *f.Thing.FD == h.held[0].FD }) {
		t.Errorf("once it is accepted: found %v", fs)
	}
	o := h.options()
	o.Passed = nil
	c, err := Container(t.Context(), o)
	must(t, err)
	if !slices.ContainsFunc(preflight.Judge(c), func(f preflight.Finding) bool { return f.Code == "pipe-outside" && *f.Thing.FD == 1 }) {
		t.Error("nothing is found of a pipe that this test has the other end of")
	}
	// a process that came in by exec: its parent is not of the container
	path, err := workload()
	must(t, err)
	cmd := exec.Command(path, "hold", "--kind", "sleep")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	startTied(t, cmd)
	h.pids = append(h.pids, cmd.Process.Pid)
	if fs := h.judge(t); !slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == "exec-session" && f.Thing.Pid == cmd.Process.Pid }) {
		t.Errorf("found %v", fs)
	}
}

// What whoever starts a container hands in: a file of the host, a terminal of the host, a process of the host.
func TestHandedIn(t *testing.T) {
	needRoot(t)
	file, err := os.Create(filepath.Join(t.TempDir(), "host's"))
	must(t, err)
	defer file.Close()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	must(t, err)
	defer terminal.Close()
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	must(t, err)
	self := os.NewFile(uintptr(pidfd), "pidfd")
	defer self.Close()
	fs := holdAlso(t, t.TempDir(), []*os.File{file, terminal, self}, "sleep").judgeAll(t)
	for fd, code := range map[int]string{3: "file-outside", 4: "terminal-outside", 5: "pidfd-outside"} {
		if !slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == code && f.Thing.FD != nil && *f.Thing.FD == fd }) {
			t.Errorf("no %s at descriptor %d among %v", code, fd, fs)
		}
	}
}

// A file system that CRIU does not know, and more memory than it can leave in place.
func TestWholes(t *testing.T) {
	dir := t.TempDir()
	h := hold(t, dir, "ramfs", "locked-memory")
	o := h.options()
	o.LazyLimit, o.Memory = 4096, func() int64 { return 8192 }
	c, err := Container(t.Context(), o)
	must(t, err)
	fs := preflight.Judge(c)
	if !slices.ContainsFunc(fs, func(f preflight.Finding) bool {
		return f.Code == "mount-type" && f.Thing.Path == dir && strings.Contains(f.Reason, "ramfs")
	}) {
		t.Errorf("no mount-type at %s among %v", dir, fs)
	}
	if !slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == "open-files" }) {
		t.Errorf("no open-files among %v", fs)
	}
	o.LazyLimit, o.Memory = 1<<40, func() int64 { t.Error("memory is measured although it is far below the limit"); return 0 }
	_, err = Container(t.Context(), o)
	must(t, err)
}

// Descriptors that processes have in common are looked at once, and found at each of them.
func TestInCommon(t *testing.T) {
	needRoot(t)
	ring, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|1, 0, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	shared := os.NewFile(ring, "userfaultfd")
	defer shared.Close()
	o := Options{Init: os.Getpid(), Pids: []int{os.Getpid()}}
	for range 4 {
		cmd := exec.Command("sleep", "1000")
		cmd.ExtraFiles = []*os.File{shared}
		startTied(t, cmd)
		o.Pids = append(o.Pids, cmd.Process.Pid)
	}
	c, err := Container(t.Context(), o)
	must(t, err)
	for _, p := range c.Procs[1:] {
		i := slices.IndexFunc(p.FDs, func(d preflight.Descriptor) bool { return d.FD == 3 })
		if i < 0 || p.FDs[i].Link != "anon_inode:[userfaultfd]" {
			t.Errorf("process %d: descriptor 3 is not found among %+v", p.Pid, p.FDs)
		}
	}
}

// A process that ends while it is looked at is left out, and a container that has ended is an error.
func TestGone(t *testing.T) {
	h := hold(t, t.TempDir(), "sleep")
	h.pids = append(h.pids, 1<<22+1) // no pid is as large
	if fs := h.judge(t); len(fs) != 0 {
		t.Errorf("found %v", fs)
	}
	if _, err := Container(t.Context(), Options{Init: 1<<22 + 1, Pids: []int{1<<22 + 1}}); err == nil {
		t.Error("a container without processes was looked at")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Container(ctx, h.options()); err == nil {
		t.Error("a cancelled look went on")
	}
}

func TestHost(t *testing.T) {
	h := Host(t.Context(), Versions{Kernel: "6.18.0", Arch: "amd64", CRIU: "", Runc: "1.3.6"}, true)
	if h.Cgroup != 1 && h.Cgroup != 2 {
		t.Errorf("cgroup version %d", h.Cgroup)
	}
	if len(h.CPU) == 0 {
		t.Error("the CPU has no features")
	}
}

func TestParse(t *testing.T) {
	if got := fmt.Sprint(parseCPU("processor : 0\nflags\t\t: fpu avx2 sse2 nopl constant_tsc avx2\n")); got != "[avx2 sse2]" {
		t.Errorf("x86: %s", got)
	}
	if got := fmt.Sprint(parseCPU("processor : 0\nFeatures : sve fp asimd\n")); got != "[asimd fp sve]" {
		t.Errorf("arm64: %s", got)
	}
	w, ok := parseWatch("inotify wd:1 ino:2d7 sdev:800013 mask:800afce ignored_mask:0\n")
	if !ok || w.Dev != (preflight.Dev{Major: 8, Minor: 0x13}) {
		t.Errorf("watch: %+v", w)
	}
	mounts := map[uint64]*preflight.Mount{}
	parseMounts(mounts, "20 1 0:40 / / rw - overlay overlay rw\n21 20 0:41 / /a\\040b rw shared:1 - tmpfs tmpfs rw\n22 21 0:42 / /a\\040b ro - ext4 /dev/sda ro\nbroken\n")
	if len(mounts) != 3 || !mounts[21].Hidden || mounts[22].Hidden || mounts[22].Point != "/a b" || mounts[20].Type != "overlay" {
		t.Errorf("mounts: %+v", mounts)
	}
	leases := parseLeases("1: LEASE  ACTIVE    WRITE 7 fe:00:99 0 EOF\n2: LEASE  ACTIVE    READ 7 fe:00:98 0 EOF\n3: FLOCK  ADVISORY  WRITE 7 fe:00:97 0 EOF\n4: LEASE  BREAKING  UNLCK 8 fe:00:96 0 EOF\n5: -> POSIX\n")
	if fmt.Sprint(leases) != "map[7:[99] 8:[96]]" {
		t.Errorf("leases: %v", leases)
	}
	s, limits, err := Spec(json.RawMessage(`{"process":{"terminal":true},"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}],
		"resources":{"memory":{"limit":1000},"pids":{"limit":5},"cpu":{"quota":1000}},"seccomp":{"defaultAction":"x","listenerPath":"/run/s"}}}`))
	must(t, err)
	if !s.Terminal || !s.Notify || s.Joined["network"] != "/run/netns/x" || fmt.Sprint(limits) != "[memory cpu pids]" {
		t.Errorf("%+v, %v", s, limits)
	}
}

// A thousand processes with ten descriptors each, beside what ls makes of the same.
func BenchmarkContainer(b *testing.B) {
	needRoot(b)
	const processes, files = 1000, 7 // and three standard streams
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	must(b, err)
	defer null.Close()
	o := Options{Init: os.Getpid(), Pids: []int{os.Getpid()}}
	dirs := []string{}
	for range processes {
		cmd := exec.Command("sleep", "1000")
		for range files {
			cmd.ExtraFiles = append(cmd.ExtraFiles, null)
		}
		must(b, cmd.Start())
		b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		o.Pids = append(o.Pids, cmd.Process.Pid)
		dirs = append(dirs, fmt.Sprintf("/proc/%d/fd", cmd.Process.Pid))
	}
	time.Sleep(100 * time.Millisecond) // they are all in their program
	b.Run("check", func(b *testing.B) {
		defer cpuTime(b, unix.RUSAGE_SELF)()
		for range b.N {
			c, err := Container(b.Context(), o)
			must(b, err)
			preflight.Judge(c)
		}
	})
	b.Run("ls", func(b *testing.B) {
		defer cpuTime(b, unix.RUSAGE_CHILDREN)()
		for range b.N {
			if err := exec.Command("ls", append([]string{"-l"}, dirs...)...).Run(); err != nil {
				b.Log(err)
			}
		}
	})
}

// cpuTime reports the time on a CPU, which a busy machine changes less than the time on the clock.
func cpuTime(b *testing.B, who int) func() {
	spent := func() float64 {
		var u unix.Rusage
		must(b, unix.Getrusage(who, &u))
		return float64(unix.TimevalToNsec(u.Utime)+unix.TimevalToNsec(u.Stime)) / 1e6
	}
	before := spent()
	return func() { b.ReportMetric((spent()-before)/float64(b.N), "cpu-ms/op") }
}
