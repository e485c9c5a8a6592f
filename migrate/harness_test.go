package migrate_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"migrate/internal/criu"
	"migrate/internal/criu/pagemap"
	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/track"
	"migrate/migrate"
	"migrate/restore"
	"migrate/transfer"
)

// TestMain is three programs: the tests, the guard that a source agent starts, and, as criu in PATH, something that says
// nothing. Real are the agents, the guard, the hooks, the session and the layers; what stands in are the engine and, as
// shell scripts, runtime and CRIU.
func TestMain(m *testing.M) {
	if n := len(os.Args); os.Getenv("MIGRATE_TEST_GUARD") != "" && n > 1 && strings.HasPrefix(os.Args[n-1], "{") {
		os.Exit(guardMain(os.Args[n-1]))
	}
	os.Exit(testMain(m))
}

func guardMain(arg string) int {
	var job criu.GuardJob
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return criu.RunGuard(job, os.Stdin, func(context.Context, criu.GuardJob) error { return nil })
}

func testMain(m *testing.M) int {
	tmp, err := os.MkdirTemp("", "migrate-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	bin := filepath.Join(tmp, "bin")
	if err := errors.Join(os.Mkdir(bin, 0o755), os.WriteFile(filepath.Join(bin, "criu"), []byte("#!/bin/sh\n"), 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for k, v := range map[string]string{"MIGRATE_TEST_GUARD": "1", "TMPDIR": tmp, "PATH": bin + ":" + os.Getenv("PATH")} {
		os.Setenv(k, v)
	}
	return m.Run()
}

const (
	contID = "web"
	// quick bounds what waits for a peer that is gone; slow is when a test is given up.
	quick = 600 * time.Millisecond
	slow  = 60 * time.Second
)

// runtimeScript stands for runc and CRIU at the source. It writes an image set and calls the action script from the
// configuration that it sees in its mount namespace. MODE says how it ends.
const runtimeScript = `#!/bin/sh
while [ $# -gt 0 ]; do
	case "$1" in
	--image-path) images=$2; shift;;
	--work-path) work=$2; shift;;
	esac
	shift
done
conf=$(cat '@CONF@')
hook=${conf##*action-script \"}
hook=${hook%%\"*}
[ '@MODE@' = no-hook ] || CRTOOLS_SCRIPT_ACTION=pre-dump "$hook" || exit 1
case '@MODE@' in
fail)
	echo '(00.020000) Error (criu/files.c:9): Unsupported proto 262' >"$work/dump.log"
	echo 'time="x" level=error msg="criu failed: type NOTIFY errno 0"'
	exit 1;;
no-hook) exit 0;;
hang) exec sleep 1000;;
esac
[ '@MODE@' = remap ] && echo x >'@UPPER@/etc/link_remap.@BASE@' && echo x >"$images/remap-fpath.img"
printf '\031\103\126\124\107\070\005\125\0\0\0\0' >"$images/core-1.img"
echo '[]' >"$images/descriptors.json"
cat '@MEMORY@' >"$images/pages-1.img"
[ -z '@PAGEMAP@' ] || cp '@PAGEMAP@' "$images/pagemap-@VPID@.img"
if CRTOOLS_SCRIPT_ACTION=post-dump CRTOOLS_INIT_PID=1 "$hook"; then exit 0; fi
echo '(00.030000) Error (criu/action-scripts.c:1): post-dump failed' >"$work/dump.log"
exit 1
`

// site is two hosts, with a container on the first, and a way between them.
type site struct {
	t        testing.TB
	dir      string
	world    *fake.World
	src, dst *fake.Engine
	memory   []byte // what the runtime dumps
	pid      int
	before   []string // on dst
	outcomes *restore.Outcomes
	dstRun   string
	srcRun   string

	precopy   bool   // memory is copied in rounds, from the process that stands for the container
	stays     string // the mode in which it is left there; "" for none
	start     uint64 // address of memory, when it is the process's
	recover   time.Duration
	reunions  *restore.Reunions
	timeout   time.Duration
	mode      string                                   // of the runtime
	dialFault func(n int) error                        // before the n-th session, from 1
	link      func(n int) *cutter                      // for the n-th session; nil: one that holds
	noHold    bool                                     // the destination's runtime knows no hook
	answer    func(n int, sess *transfer.Session) bool // takes the destination's end instead of Recv
	recvCtx   context.Context                          // of the destination agent
	onRecv    func(res *restore.Result, err error)     // when a session is over there
	policy    restore.Policy
	storage   migrate.StorageOptions
	observe   report.Observer

	dials   atomic.Int32
	serving sync.WaitGroup

	mu      sync.Mutex
	conf    string // CRIU's configuration, as registered at the destination
	images  string
	badImgs error
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: stages are mounted and guards get a mount namespace, which needs root")
	}
}

// spec is what `ctr run` makes, without what does not matter here.
const spec = `{"ociVersion":"1.2.1","process":{"terminal":false,"user":{"uid":0,"gid":0},"args":["sleep"],"cwd":"/",
"capabilities":{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"]}},"root":{"path":"rootfs"},
"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]}],
"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}]},"cgroupsPath":"/default/web",
"namespaces":[{"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"},{"type":"network"}],
"maskedPaths":["/proc/acpi","/proc/asound","/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list","/proc/timer_stats","/proc/sched_debug","/sys/firmware","/sys/devices/virtual/powercap","/proc/scsi","/proc/interrupts","/sys/devices/system/cpu"],
"readonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]}}`

func newSite(t testing.TB) *site {
	t.Helper()
	needRoot(t)
	s := &site{t: t, dir: t.TempDir(), world: fake.NewWorld(), recvCtx: context.Background(), reunions: restore.NewReunions()}
	s.src, s.dst = s.world.Host("src"), s.world.Host("dst")
	s.srcRun, s.dstRun = filepath.Join(s.dir, "src"), filepath.Join(s.dir, "dst")
	c := fake.Container(contID)
	c.Network = engine.Network{Mode: engine.NetworkNone}
	c.Spec = json.RawMessage(spec)
	s.src.AddContainer(c, engine.StatusRunning)
	s.memory = make([]byte, 1<<20+4096*3+17)
	for i := range s.memory {
		s.memory[i] = byte(i>>8) ^ byte(i)
	}
	upper := filepath.Join(s.dir, "upper")
	for _, d := range []string{upper, filepath.Join(upper, "etc"), filepath.Join(s.dir, "cgroup"), filepath.Join(s.dir, "criu")} {
		must(t, os.Mkdir(d, 0o755))
	}
	must(t, os.WriteFile(filepath.Join(upper, "etc/motd"), []byte("hello\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.dir, "cgroup/freezer.state"), []byte("THAWED"), 0o644))
	must(t, os.WriteFile(filepath.Join(s.dir, "memory"), s.memory, 0o600))
	s.src.SetUpper(contID, upper)
	var err error
	s.outcomes, err = restore.OpenOutcomes(filepath.Join(s.dir, "outcomes"))
	must(t, err)
	// a process whose memory is estimated
	sleep := exec.Command("sleep", "1000")
	must(t, sleep.Start())
	t.Cleanup(func() { _ = sleep.Process.Kill(); _ = sleep.Wait() })
	s.pid = sleep.Process.Pid
	must(t, os.WriteFile(filepath.Join(s.dir, "cgroup/cgroup.procs"), []byte(strconv.Itoa(s.pid)), 0o644))
	s.before = s.dst.Left()
	s.dst.HoldRestore = s.holdRestore
	return s
}

// usePrecopy makes the container's memory that of the process, of which the image set names the heap without holding it.
func (s *site) usePrecopy() {
	s.t.Helper()
	s.precopy = true
	must(s.t, os.WriteFile(filepath.Join(s.dir, "memory"), nil, 0o600))
	var start, end uint64
	for deadline := time.Now().Add(slow); start == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		// once it sleeps, with its heap, nothing in it changes any more
		if call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", s.pid)); err != nil || !sleeping.Match(call) {
			continue
		}
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", s.pid))
		must(s.t, err)
		for line := range strings.Lines(string(maps)) {
			if strings.HasSuffix(line, "[heap]\n") {
				_, err = fmt.Sscanf(line, "%x-%x ", &start, &end)
				must(s.t, err)
			}
		}
	}
	f := pagemap.File{PagesID: 1, Entries: []pagemap.Entry{{Addr: start, Pages: (end - start) / pagemap.PageSize, Flags: pagemap.Lazy}}}
	must(s.t, f.WriteFile(s.pagemap()))
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", s.pid))
	must(s.t, err)
	defer mem.Close()
	s.memory, s.start = make([]byte, end-start), start
	_, err = mem.ReadAt(s.memory, int64(start))
	must(s.t, err)
}

// sleeping matches what /proc/PID/syscall says of nanosleep and clock_nanosleep: their numbers, on amd64 and arm64.
var sleeping = regexp.MustCompile(`^(35|230|101|115) `)

func (s *site) pagemap() string { return filepath.Join(s.dir, "pagemap") }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// source is the engine at the source with handles that mean something.
type source struct {
	*fake.Engine
	s *site
}

func (e source) Inspect(ctx context.Context, id string) (*engine.Container, *engine.Handles, error) {
	c, h, err := e.Engine.Inspect(ctx, id)
	if err != nil {
		return c, h, err
	}
	h.Pid, h.Pids = e.s.pid, []int{e.s.pid}
	h.CgroupFreeze = filepath.Join(e.s.dir, "cgroup/freezer.state")
	h.CRIUConfig = filepath.Join(e.s.dir, "criu/runc.conf")
	h.RuntimePath = filepath.Join(e.s.dir, "runc")
	return c, h, nil
}

// dest is the engine at the destination; it notes what the restore is told.
type dest struct {
	*fake.Engine
	s *site
}

func (e dest) Register(ctx context.Context, c *engine.Container, spec json.RawMessage) (engine.Undo, error) {
	var s struct{ Annotations map[string]string }
	if err := json.Unmarshal(spec, &s); err != nil {
		return nil, err
	}
	e.s.mu.Lock()
	e.s.conf = s.Annotations["org.criu.config"]
	e.s.mu.Unlock()
	return e.Engine.Register(ctx, c, spec)
}

func (e dest) PrepareTask(ctx context.Context, c *engine.Container, cp engine.Checkpoint) (engine.Undo, error) {
	e.s.mu.Lock()
	e.s.images = cp.ImagePath
	e.s.mu.Unlock()
	return e.Engine.PrepareTask(ctx, c, cp)
}

var actionScript = regexp.MustCompile(`(?m)^action-script "(.*)"$`)

// holdRestore stands for CRIU at the destination: it reads the image set and calls the hook before the processes run.
func (s *site) holdRestore(context.Context, string) error {
	s.mu.Lock()
	conf, images := s.conf, s.images
	s.mu.Unlock()
	text, err := os.ReadFile(conf)
	if err != nil {
		return err
	}
	m := actionScript.FindSubmatch(text)
	if m == nil {
		return errors.New("the configuration names no action script")
	}
	if got, err := os.ReadFile(filepath.Join(images, "pages-1.img")); s.stays == "" && (err != nil || string(got) != string(s.memory)) {
		s.mu.Lock()
		s.badImgs = fmt.Errorf("the image set at the restore is not what was dumped: %d bytes, %v", len(got), err)
		s.mu.Unlock()
	}
	if s.noHold {
		return nil
	}
	if runs := s.world.Runs(contID); len(runs) != 0 {
		return fmt.Errorf("restored while it runs on %v", runs)
	}
	if err := runAction(string(m[1]), "post-restore"); err != nil {
		return fmt.Errorf("action script: %w", err)
	}
	return runAction(string(m[1]), "post-resume")
}

func runAction(script, action string) error {
	c := exec.Command(script)
	c.Env = append(os.Environ(), "CRTOOLS_SCRIPT_ACTION="+action, "CRTOOLS_INIT_PID=7")
	return c.Run()
}

// cutter breaks a link after so many writes, of both directions together.
type cutter struct {
	left    atomic.Int64
	silent  bool // what is written vanishes, and nobody is told
	cut     atomic.Bool
	onCut   sync.Once
	closers []io.Closer
}

func cutAfter(n int, silent bool) *cutter {
	c := &cutter{silent: silent}
	c.left.Store(int64(n))
	return c
}

func (c *cutter) end() {
	c.onCut.Do(func() {
		c.cut.Store(true)
		if !c.silent {
			for _, x := range c.closers {
				x.Close()
			}
		}
	})
}

type cutWriter struct {
	io.WriteCloser
	c *cutter
}

func (w cutWriter) Write(p []byte) (int, error) {
	if w.c.left.Add(-1) < 0 {
		w.c.end()
		if w.c.silent {
			return len(p), nil
		}
		return 0, syscall.EPIPE
	}
	return w.WriteCloser.Write(p)
}

// sessionOptions notice a dead peer soon.
var sessionOptions = transfer.Options{Keepalive: 50 * time.Millisecond, DeadAfter: quick, CloseTimeout: quick, HandshakeTimeout: 3 * time.Second}

// dial connects the two agents.
func (s *site) dial(ctx context.Context) (*transfer.Session, error) {
	n := int(s.dials.Add(1))
	if s.dialFault != nil {
		if err := s.dialFault(n); err != nil {
			return nil, err
		}
	}
	toDst, dstIn := newPipe()
	toSrc, srcIn := newPipe()
	var srcOut, dstOut io.WriteCloser = dstIn, srcIn
	if s.link != nil {
		if c := s.link(n); c != nil {
			c.closers = []io.Closer{dstIn, srcIn} // the readers see the end
			srcOut, dstOut = cutWriter{dstIn, c}, cutWriter{srcIn, c}
		}
	}
	s.serving.Go(func() { s.serve(n, toDst, dstOut) })
	return transfer.Stdio(ctx, toSrc, srcOut, transfer.Source, sessionOptions)
}

func newPipe() (*os.File, *os.File) {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	return r, w
}

func (s *site) serve(n int, in io.Reader, out io.Writer) {
	sess, err := transfer.Stdio(s.recvCtx, in, out, transfer.Destination, sessionOptions)
	if err != nil {
		return
	}
	if s.answer != nil && s.answer(n, sess) {
		return
	}
	res, err := restore.Recv(s.recvCtx, sess, restore.Options{
		Policy: s.policy, Outcomes: s.outcomes, RunDir: s.dstRun, LogDir: filepath.Join(s.dir, "dst-log"),
		Files: filepath.Join(s.dir, "dst-files"), Left: filepath.Join(s.dir, "left"),
		OpenEngine: func(context.Context, string, string) (engine.Engine, error) { return dest{s.dst, s}, nil },
		Reunions:   s.reunions, StartPager: s.startPager,
	})
	if s.onRecv != nil {
		s.onRecv(res, err)
	}
}

// send runs one migration and waits until both agents are done.
func (s *site) send(ctx context.Context) (*report.Report, error) {
	memory, pagemapPath := migrate.MemoryOptions{Mode: proto.ModeStop}, ""
	vpid, err := track.VPid(s.pid)
	must(s.t, err)
	if s.stays != "" {
		memory, pagemapPath = migrate.MemoryOptions{Mode: s.stays, Recover: cmp.Or(s.recover, 10*time.Second)}, s.pagemap()
	} else if s.precopy {
		// nothing here asks a pager for pages, as CRIU would
		memory, pagemapPath = migrate.MemoryOptions{Mode: proto.ModePrecopy, Eager: true}, s.pagemap()
	}
	text := strings.NewReplacer("@CONF@", filepath.Join(s.dir, "criu/runc.conf"), "@MODE@", s.mode, "@MEMORY@", filepath.Join(s.dir, "memory"),
		"@UPPER@", filepath.Join(s.dir, "upper"), "@BASE@", filepath.Base(s.dir),
		"@PAGEMAP@", pagemapPath, "@VPID@", strconv.Itoa(vpid)).Replace(runtimeScript)
	must(s.t, os.WriteFile(filepath.Join(s.dir, "runc"), []byte(text), 0o755))
	rep, err := migrate.Send(ctx, source{s.src, s}, migrate.Options{
		Container: contID, Destination: "dst", TCP: criu.TCPEstablished, Timeout: cmp.Or(s.timeout, 20*time.Second),
		Guard: []string{"/proc/self/exe"}, RunDir: s.srcRun, LogDir: filepath.Join(s.dir, "src-log"),
		Dial: s.dial, Observe: s.observe, Memory: memory, Storage: s.storage,
	})
	s.serving.Wait()
	return rep, err
}

// unsettled are the ends at which the source cannot tell who has the container, or left something behind.
func unsettled(err error) bool {
	var f *fail.Fault
	return errors.As(err, &f) && (f.Code == fail.InDoubt || f.Code == fail.Unfinished)
}

// check holds the end of a migration against what must be true of it.
func (s *site) check(rep *report.Report, err error) error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if e := s.world.Check(); e != nil {
		bad("two copies: %w", e)
	}
	s.mu.Lock()
	if s.badImgs != nil {
		bad("%w", s.badImgs)
	}
	s.mu.Unlock()
	runs := s.world.Runs(contID)
	switch {
	case err == nil:
		if !slices.Equal(runs, []string{"dst"}) {
			bad("moved, and runs on %v", runs)
		}
		if rep.Result != report.Moved {
			bad("no error, and the report says %q", rep.Result)
		}
	case isLost(err):
		if len(runs) > 0 {
			bad("lost, and runs on %v", runs)
		}
		if rep.Result != report.Lost || s.stays == "" {
			bad("lost, and the report says %q of mode %q", rep.Result, s.stays)
		}
	case unsettled(err):
		if slices.Contains(runs, "src") {
			bad("%v, and runs on %v", err, runs)
		}
	default:
		var f *fail.Fault
		if !errors.As(err, &f) {
			bad("error is no Fault: %v", err)
		} else if f.Code == "" || f.What == "" || f.State == "" && s.wasPaused() {
			bad("fault is not complete: %+v", f)
		}
		if !slices.Equal(runs, []string{"src"}) {
			bad("did not move, and runs on %v", runs)
		}
		if rep.Result != report.Stayed {
			bad("error %v, and the report says %q", err, rep.Result)
		}
		if left := s.dst.Left(); !slices.Equal(left, s.before) {
			bad("the destination has %v left, had %v", left, s.before)
		}
	}
	left := s.stages()
	if unsettled(err) { // that the copy here is the destination's has to be known for as long as it is here
		left = slices.DeleteFunc(left, func(path string) bool { return strings.HasSuffix(path, ".given") })
	}
	if len(left) > 0 {
		bad("left behind: %v", left)
	}
	return errors.Join(errs...)
}

func (s *site) wasPaused() bool {
	return slices.ContainsFunc(s.world.History(), func(ev fake.Event) bool { return ev.Op == fake.OpPause })
}

// stages lists what is left of stages and configurations.
func (s *site) stages() []string {
	var left []string
	for _, run := range []string{s.srcRun, s.dstRun} {
		entries, _ := os.ReadDir(run)
		for _, e := range entries {
			if e.Name() != "criu" {
				left = append(left, filepath.Join(run, e.Name()))
			}
		}
		conf, _ := os.ReadDir(filepath.Join(run, "criu"))
		for _, e := range conf {
			left = append(left, filepath.Join(run, "criu", e.Name()))
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), s.dir) {
		left = append(left, "mounts below "+s.dir)
	}
	return left
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), slow)
	t.Cleanup(cancel)
	return ctx
}
