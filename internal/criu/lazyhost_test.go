//go:build inhost

package criu

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/criu/pagemap"
)

func init() {
	roles["lazy-guard"] = lazyGuardMain
	roles["lazy-agent"] = lazyAgentMain
}

const (
	boxID    = "lazy-test"
	patience = 2 * time.Minute // longer than any test waits: CRIU has to end by itself
)

// box is a container of the runtime's alone, without an engine.
type box struct {
	t      *testing.T
	dir    string
	rootfs string
	beats  int // of the workload when it was last seen
}

// newBox runs the workload in a container.
func newBox(t *testing.T, args ...string) *box {
	t.Helper()
	if err := Warm(t.Context()); err != nil { // otherwise the first dump knows of no way to claim a parent
		t.Fatal(err)
	}
	dir := t.TempDir()
	b := &box{t: t, dir: dir, rootfs: filepath.Join(dir, "bundle", "rootfs")}
	if err := os.MkdirAll(b.rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.rootfs, "program"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	b.runc("spec", "--bundle", filepath.Dir(b.rootfs))
	b.edit(append([]string{"/program", "workload"}, args...))
	t.Cleanup(func() {
		_ = exec.Command("runc", "--root", b.root(), "delete", "--force", boxID).Run() // it is gone already after most tests
	})
	b.runc("run", "--detach", "--bundle", filepath.Dir(b.rootfs), boxID)
	b.alive()
	return b
}

// edit makes runc's example of a specification one of the workload.
func (b *box) edit(args []string) {
	b.t.Helper()
	path := filepath.Join(filepath.Dir(b.rootfs), "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(text, &spec); err != nil {
		b.t.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"], process["env"] = false, args, []string{"GODEBUG=multipathtcp=0"}
	spec["root"].(map[string]any)["readonly"] = false
	if text, err = json.Marshal(spec); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) root() string { return filepath.Join(b.dir, "runc") }

// runc runs the runtime, which must succeed.
func (b *box) runc(args ...string) string {
	b.t.Helper()
	out, err := runRunc(b.dir, args...)
	if err != nil {
		b.t.Fatalf("runc %v: %v", args, err)
	}
	return out
}

// runRunc returns what the runtime says. Neither its output nor its messages come by a pipe, which a container would inherit.
func runRunc(dir string, args ...string) (string, error) {
	log, err := os.CreateTemp(dir, "log-")
	if err != nil {
		return "", err
	}
	defer log.Close()
	c := exec.Command("runc", append([]string{"--log", log.Name(), "--root", filepath.Join(dir, "runc")}, args...)...)
	var out strings.Builder
	if args[0] == "state" {
		c.Stdout = &out
	}
	if err := c.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		return "", fmt.Errorf("%w: %s", err, text)
	}
	return out.String(), nil
}

// state asks the runtime.
func (b *box) state() (status string, pid int) {
	b.t.Helper()
	var s struct {
		Status string `json:"status"`
		Pid    int    `json:"pid"`
	}
	if err := json.Unmarshal([]byte(b.runc("state", boxID)), &s); err != nil {
		b.t.Fatal(err)
	}
	return s.Status, s.Pid
}

// beat is how many rounds the workload has done.
func (b *box) beat() int {
	text, _ := os.ReadFile(filepath.Join(b.rootfs, "beat"))
	n, _ := strconv.Atoi(string(text))
	return n
}

// alive waits until the workload has done three more rounds, the last of which it began after this was called.
func (b *box) alive() {
	b.t.Helper()
	b.beats = b.beat()
	err := waitFor(func() bool {
		_, err := os.Stat(filepath.Join(b.rootfs, "broken"))
		return err == nil || b.beat() >= b.beats+3
	})
	text, _ := os.ReadFile(filepath.Join(b.rootfs, "broken"))
	if err != nil || len(text) > 0 {
		b.t.Fatalf("the workload does not go on: %v, %q", err, text)
	}
	if status, _ := b.state(); status != "running" {
		b.t.Errorf("the runtime says %s", status)
	}
}

func (b *box) freezer() *Freezer {
	b.t.Helper()
	_, pid := b.state()
	path, err := FreezerOf(pid)
	if err != nil {
		b.t.Fatal(err)
	}
	return NewFreezer(path)
}

// envNoClaim makes lazy dumps be made without a claimed parent.
const envNoClaim = "MIGRATE_TEST_NO_CLAIM"

// bothWays runs a test for both ways in which a dump can leave memory in place.
func bothWays(t *testing.T, test func(*testing.T)) {
	t.Run("claimed", test)
	t.Run("references", func(t *testing.T) {
		t.Setenv(envNoClaim, "1")
		test(t)
	})
}

// holdLazily dumps the container in dir up to the hold.
func holdLazily(dir string, freezer *Freezer) (*Dump, *Stage, error) {
	s, err := NewStage(filepath.Join(dir, "run"), "x", 256<<20)
	if err != nil {
		return nil, nil, err
	}
	d, err := PrepareDump(context.Background(), DumpRequest{
		Self: []string{"/proc/self/exe", "lazy-guard"}, Runtime: "runc", Root: filepath.Join(dir, "runc"), ID: boxID, ConfigAt: "/etc/criu/runc.conf",
		ImageDir: s.Images(), WorkDir: s.Work(), HookDir: s.Hook(), TCP: TCPEstablished, Engine: dir, Freezer: freezer.path, Stage: s.Dir(), Lazy: true,
		ByReference: os.Getenv(envNoClaim) != "",
	})
	if err != nil {
		return nil, s, err
	}
	if _, err := runRunc(dir, "pause", boxID); err != nil {
		return d, s, fmt.Errorf("pause: %w", err)
	}
	if err := d.Begin(); err != nil {
		return d, s, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := d.WaitHeld(ctx); err != nil {
		return d, s, err
	}
	if err := freezer.Freeze(); err != nil { // CRIU thaws what it holds
		return d, s, err
	}
	return d, s, d.Settle()
}

func (b *box) hold() (*Dump, *Stage, *Freezer) {
	b.t.Helper()
	f := b.freezer()
	d, s, err := holdLazily(b.dir, f)
	b.t.Cleanup(func() {
		if s != nil {
			_ = s.Remove()
		}
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, "run/x/work/dump.log"))
		b.t.Fatalf("%v\n%s", err, log)
	}
	return d, s, f
}

// lazyGuardMain is a guard that resumes the container through the runtime.
func lazyGuardMain(args []string) int {
	var job GuardJob
	if err := json.Unmarshal([]byte(args[0]), &job); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	return RunGuard(job, os.Stdin, func(_ context.Context, job GuardJob) error {
		_, err := runRunc(job.Engine, "resume", job.ID)
		return err
	})
}

// lazyAgentMain holds a dump until it is killed.
func lazyAgentMain(args []string) int {
	_, _, err := holdLazily(args[0], NewFreezer(args[1]))
	fmt.Println("there", err)
	time.Sleep(time.Hour)
	return 0
}

// nothingLeft looks for processes and mounts that a dump of this box may have left; others may be at work in this host.
func (b *box) nothingLeft() {
	b.t.Helper()
	var left []string
	err := waitFor(func() bool {
		left = nil
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			line, _ := os.ReadFile(f)
			// CRIU does not name its directory, but works in it; "/work" is what is left of the name of a stage that is gone
			cwd, _ := os.Readlink(filepath.Join(filepath.Dir(f), "cwd"))
			criu := strings.HasPrefix(string(line), "criu\x00") && (strings.Contains(cwd, b.dir) || strings.HasPrefix(cwd, "/work"))
			if criu || strings.Contains(string(line), b.dir) {
				left = append(left, strings.ReplaceAll(string(line), "\x00", " "))
			}
		}
		return len(left) == 0
	})
	if err != nil {
		b.t.Errorf("processes are left: %q", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range strings.Split(string(mounts), "\n") {
		if strings.Contains(m, b.dir) && strings.Contains(m, "criu") {
			b.t.Errorf("a mount is left: %s", m)
		}
	}
	if names, _ := filepath.Glob(filepath.Join(b.rootfs, "link_remap*")); len(names) > 0 {
		b.t.Errorf("files are left: %v", names)
	}
}

// endedBySelf fails unless CRIU came to its end.
func endedBySelf(t *testing.T, d *Dump) {
	t.Helper()
	log, err := os.ReadFile(d.Log())
	if err != nil || !strings.Contains(string(log), "Dumping FAILED.") {
		t.Errorf("CRIU did not end by itself: %v\n%s", err, log)
	}
	if strings.Contains(string(log), "Accepted connection") {
		t.Error("CRIU served somebody")
	}
}

func (b *box) resume() { b.t.Helper(); b.runc("resume", boxID); b.alive() }

// readMem reads through /proc/PID/mem, which also gives what the task itself may not read.
func readMem(mem *os.File, addr uint64, p []byte) error {
	_, err := mem.ReadAt(p, int64(addr))
	return err
}

// checkMemory compares the memory of the one held task with its pattern, and returns the set's pagemap.
func (b *box) checkMemory(s *Stage, pid int) *pagemap.File {
	b.t.Helper()
	images, err := pagemap.List(s.Images())
	if err != nil || len(images) != 1 || images[0].ID != 1 || images[0].Shmem {
		b.t.Fatalf("the set has %v, %v", images, err)
	}
	f, err := pagemap.ReadFile(images[0].Path)
	if err != nil {
		b.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(b.rootfs, "region"))
	if err != nil {
		b.t.Fatal(err)
	}
	start, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil {
		b.t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		b.t.Fatal(err)
	}
	defer mem.Close()
	const last = patternSize/pagemap.PageSize - 1
	seen := 0
	for _, e := range pagemap.Select(f.Entries, pagemap.Entry.InPlace) {
		for addr := e.Addr; addr < e.End(); addr += pagemap.PageSize {
			if addr < start || addr >= start+patternSize {
				continue
			}
			n, p := int(addr-start)/pagemap.PageSize, make([]byte, pagemap.PageSize)
			read := func() error { return readTask(pid, addr, p) }
			if n == last {
				if err := read(); !errors.Is(err, unix.EFAULT) {
					b.t.Errorf("a page that the task may not read: %v", err)
				}
				read = func() error { return readMem(mem, addr, p) }
			}
			if err := read(); err != nil || !bytes.Equal(p, patternPage(n)) {
				b.t.Fatalf("page %d differs (%v)", n, err)
			}
			seen++
		}
	}
	want := last + 1
	if os.Getenv(envNoClaim) == "" {
		want-- // CRIU trusts no parent with memory that a task may not read (criu/mem.c, generate_vma_iovs)
	}
	if seen != want {
		b.t.Errorf("%d of %d pages are left in place", seen, want)
	}
	if present := pagemap.Count(pagemap.Select(f.Entries, pagemap.Entry.Held)) * pagemap.PageSize; present == 0 || present > patternSize/8 {
		b.t.Errorf("%d bytes are in the set", present)
	}
	return f
}

// readTask reads as the source of a migration does.
func readTask(pid int, addr uint64, p []byte) error {
	local := []unix.Iovec{{Base: &p[0], Len: uint64(len(p))}}
	n, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: uintptr(addr), Len: len(p)}}, 0)
	if err == nil && n != len(p) {
		err = errors.New("short read")
	}
	return err
}

func TestLazyDumpIsAborted(t *testing.T) { bothWays(t, testLazyDumpIsAborted) }

func testLazyDumpIsAborted(t *testing.T) {
	b := newBox(t, "tcp")
	for range 2 { // the second time there is nothing that the first left
		d, s, f := b.hold()
		before := b.beat()
		_, pid := b.state()
		b.checkMemory(s, pid)
		if b.beat() != before {
			t.Error("the workload ran on while it was held")
		}
		d.Abort(f, patience)
		endedBySelf(t, d)
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		b.nothingLeft()
		b.resume()
	}
}

func TestLazyDumpIsAbortedBeforeItIsHeld(t *testing.T) {
	bothWays(t, testLazyDumpIsAbortedBeforeItIsHeld)
}

func testLazyDumpIsAbortedBeforeItIsHeld(t *testing.T) {
	b := newBox(t)
	s, err := NewStage(filepath.Join(b.dir, "run"), "x", 256<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Remove()
	f := b.freezer()
	d, err := PrepareDump(t.Context(), DumpRequest{
		Self: []string{"/proc/self/exe", "lazy-guard"}, Runtime: "runc", Root: b.root(), ID: boxID, ConfigAt: "/etc/criu/runc.conf",
		ImageDir: s.Images(), WorkDir: s.Work(), HookDir: s.Hook(), TCP: TCPClose, Engine: b.dir, Freezer: f.path, Stage: s.Dir(), Lazy: true,
		ByReference: os.Getenv(envNoClaim) != "",
	})
	if err != nil {
		t.Fatal(err)
	}
	b.runc("pause", boxID)
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	d.Abort(f, patience) // CRIU is anywhere in the dump
	b.nothingLeft()
	b.resume()
}

func TestLazyDumpIsCommitted(t *testing.T) { bothWays(t, testLazyDumpIsCommitted) }

func testLazyDumpIsCommitted(t *testing.T) {
	b := newBox(t, "tcp")
	d, _, f := b.hold()
	before := b.beat()
	if err := d.PointOfNoReturn(); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	endedBySelf(t, d)
	if err := waitFor(func() bool { left, err := f.Tasks(); return err == nil && len(left) == 0 }); err != nil {
		left, err := f.Tasks()
		t.Errorf("tasks are left: %v, %v", left, err)
	}
	if b.beat() != before {
		t.Error("the workload ran after the commit")
	}
	b.nothingLeft()
	b.deleted()
}

// deleted deletes the container through the runtime, without force.
func (b *box) deleted() {
	b.t.Helper()
	var err error
	if waitFor(func() bool { _, err = runRunc(b.dir, "delete", boxID); return err == nil }) != nil {
		b.t.Fatalf("delete: %v", err)
	}
	if left, _ := os.ReadDir(b.root()); len(left) > 0 {
		b.t.Errorf("the runtime keeps %v", left)
	}
}

// The guard or CRIU may die before the commit: the tasks are dead all the same.
func TestLazyCommitWithoutCRIU(t *testing.T) { bothWays(t, testLazyCommitWithoutCRIU) }

func testLazyCommitWithoutCRIU(t *testing.T) {
	b := newBox(t)
	d, _, f := b.hold()
	before := b.beat()
	killCRIU(t, d)
	if err := d.PointOfNoReturn(); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), f); err != nil {
		t.Error(err)
	}
	b.nothingLeft()
	if b.beat() != before {
		t.Error("the workload ran after the commit")
	}
	b.deleted()
}

// killCRIU ends the dump's CRIU as a crash would.
func killCRIU(t *testing.T, d *Dump) {
	t.Helper()
	var pids []int
	files, _ := filepath.Glob("/proc/[0-9]*")
	for _, f := range files {
		pid, _ := strconv.Atoi(filepath.Base(f))
		comm, _ := os.ReadFile(f + "/comm")
		if parent, ok := parentOf(pid); ok && int64(parent) == d.guard.runtime.Load() && strings.TrimSpace(string(comm)) == "criu" {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("CRIU is %v", pids)
	}
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestLazyDumpWhoseCRIUIsKilled(t *testing.T) { bothWays(t, testLazyDumpWhoseCRIUIsKilled) }

func testLazyDumpWhoseCRIUIsKilled(t *testing.T) {
	b := newBox(t, "tcp")
	d, s, f := b.hold()
	killCRIU(t, d)
	_, pid := b.state()
	b.checkMemory(s, pid)
	d.Abort(f, patience)
	pids, err := f.Tasks()
	if err := errors.Join(err, RepairOff(pids)); err != nil {
		t.Error(err)
	}
	b.nothingLeft()
	b.resume()
}

func TestLazyDumpWhoseAgentIsKilled(t *testing.T) { bothWays(t, testLazyDumpWhoseAgentIsKilled) }

func testLazyDumpWhoseAgentIsKilled(t *testing.T) {
	b := newBox(t, "tcp")
	c := exec.Command("/proc/self/exe", "lazy-agent", b.dir, b.freezer().path)
	out, err := os.Create(filepath.Join(b.dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	var said []byte
	err = waitFor(func() bool { said, _ = os.ReadFile(out.Name()); return bytes.HasSuffix(said, []byte("\n")) })
	if err != nil || string(said) != "there <nil>\n" {
		t.Errorf("the agent says %q, %v", said, err)
	}
	if err := c.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	b.nothingLeft()
	b.alive()
	if left, _ := filepath.Glob(filepath.Join(b.dir, "run", "*")); len(left) > 0 {
		t.Errorf("the stage is left: %v", left)
	}
}

// A set that CRIU made without memory is completed from the tasks, and restored by the runtime as any other.
func TestLazySetIsMadeEager(t *testing.T) { bothWays(t, testLazySetIsMadeEager) }

func testLazySetIsMadeEager(t *testing.T) {
	b := newBox(t)
	d, s, f := b.hold()
	_, pid := b.state()
	before := b.checkMemory(s, pid)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	if err := pagemap.BuildEager(s.Images(), 1, func(addr uint64, p []byte) error { return readMem(mem, addr, p) }); err != nil {
		t.Fatal(err)
	}
	after, err := pagemap.ReadFile(pagemap.TaskPath(s.Images(), 1))
	if err != nil {
		t.Fatal(err)
	}
	if left := pagemap.Select(after.Entries, pagemap.Entry.InPlace); len(left) > 0 || pagemap.Count(after.Entries) != pagemap.Count(before.Entries) {
		t.Errorf("%d entries are left, %d pages of %d are there", len(left), pagemap.Count(after.Entries), pagemap.Count(before.Entries))
	}
	if err := d.PointOfNoReturn(); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	b.deleted()
	work := filepath.Join(b.dir, "restored")
	if _, err := runRunc(b.dir, "restore", "--detach", "--image-path", s.Images(), "--work-path", work, "--bundle", filepath.Dir(b.rootfs), boxID); err != nil {
		log, _ := os.ReadFile(filepath.Join(work, "restore.log"))
		t.Fatalf("restore: %v\n%s", err, log)
	}
	b.alive()
}
