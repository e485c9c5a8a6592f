package pager

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the pager's processes, the restored tasks, and agents that are killed.
func TestMain(m *testing.M) {
	last := os.Args[len(os.Args)-1]
	switch {
	case strings.HasPrefix(last, `{"role"`):
		os.Exit(RunMain(last))
	case os.Getenv("MIGRATE_TEST_TASK") != "":
		os.Exit(taskMain(os.Getenv("MIGRATE_TEST_TASK")))
	case os.Getenv("MIGRATE_TEST_AGENT") != "":
		os.Exit(agentMain(os.Getenv("MIGRATE_TEST_AGENT")))
	}
	// the race detector has each process sleep a second at its end
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

var self = []string{"/proc/self/exe"}

// patience is for what must come; it is long since machines are slow at times.
const patience = 3 * time.Minute

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// rig is a pager, with the test in the places of the agent and of CRIU.
type rig struct {
	t    *testing.T
	job  Job
	p    *Pager
	criu *net.UnixConn
}

func newJob(t *testing.T) Job {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: userfaultfd with events needs root")
	}
	// a name too long for a socket's address
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 100))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	store, err := os.CreateTemp("/dev/shm", "pager-test-*")
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	t.Cleanup(func() {
		os.Remove(store.Name())
		log, _ := os.ReadFile(filepath.Join(dir, logName))
		for _, bad := range []string{"DATA RACE", "panic", "fatal error"} {
			if bytes.Contains(log, []byte(bad)) {
				t.Errorf("the pager had a %s", bad)
			}
		}
		if t.Failed() {
			t.Logf("pager's log:\n%s", log)
		}
	})
	return Job{Work: dir, Store: store.Name(), Record: filepath.Join(dir, "record.json")}
}

func newRig(t *testing.T) *rig {
	t.Helper()
	job := newJob(t)
	p, err := Start(testContext(t), self, job)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.committed.Store(false) // whatever the test did, nothing stays
		p.Abort()
	})
	return &rig{t: t, job: job, p: p}
}

// connect is CRIU's connection.
func (r *rig) connect() {
	r.t.Helper()
	d, err := os.Open(r.job.Work)
	if err != nil {
		r.t.Fatal(err)
	}
	defer d.Close()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), SocketName), Net: "unix"})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	r.criu = c
}

func (r *rig) sendInt(v int32) {
	r.t.Helper()
	if _, err := r.criu.Write(binary.NativeEndian.AppendUint32(nil, uint32(v))); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) sendFD(fd int) {
	r.t.Helper()
	if _, _, err := r.criu.WriteMsgUnix([]byte{0}, unix.UnixRights(fd), nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) restored() {
	r.t.Helper()
	r.sendInt(restoreFinished)
	r.criu.Close()
}

// task is a restored task as CRIU and the test see it.
type task struct {
	t       *testing.T
	job     taskJob
	cmd     *exec.Cmd
	control *net.UnixConn
	stderr  bytes.Buffer
	fd      int // userfaultfd
	ended   chan error
}

// newTask starts a task, which waits to be resumed.
func newTask(t *testing.T, job taskJob) *task {
	t.Helper()
	arg, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs, err := newPair()
	if err != nil {
		t.Fatal(err)
	}
	k := &task{t: t, job: job, control: ours.c, ended: make(chan error, 1)}
	k.cmd = exec.Command("/proc/self/exe")
	k.cmd.Env = append(os.Environ(), "MIGRATE_TEST_TASK="+string(arg))
	k.cmd.Stderr = &k.stderr
	k.cmd.ExtraFiles = []*os.File{theirs}
	if err := k.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	go func() { k.ended <- k.cmd.Wait() }()
	t.Cleanup(func() {
		_ = k.cmd.Process.Kill()
		k.control.Close()
	})
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := k.control.ReadMsgUnix(make([]byte, 1), oob)
	if err == nil {
		k.fd, err = oneRight(oob[:n])
	}
	if err != nil || k.fd < 0 {
		t.Fatalf("task %d gave no descriptor: %v\n%s", job.VPID, err, k.stderr.String())
	}
	return k
}

// send delivers the task to the pager, as CRIU does.
func (r *rig) send(k *task) {
	r.t.Helper()
	r.sendInt(int32(k.job.VPID))
	r.sendFD(k.fd)
	_ = unix.Close(k.fd)
}

// resume lets the task run.
func (k *task) resume() {
	k.t.Helper()
	if _, err := k.control.Write([]byte{1}); err != nil {
		k.t.Fatal(err)
	}
}

// wait fails the test unless the task has found everything as it should be.
func (k *task) wait() {
	k.t.Helper()
	select {
	case err := <-k.ended:
		if err != nil {
			k.t.Fatalf("task %d: %v\n%s", k.job.VPID, err, k.stderr.String())
		}
	case <-time.After(patience):
		k.t.Fatalf("task %d does not end", k.job.VPID)
	}
}

// waitKilled fails the test unless the task was killed before it found anything wrong.
func (k *task) waitKilled() {
	k.t.Helper()
	select {
	case err := <-k.ended:
		if err == nil || !strings.Contains(err.Error(), "signal: killed") {
			k.t.Fatalf("task %d: %v, want it to be killed\n%s", k.job.VPID, err, k.stderr.String())
		}
	case <-time.After(patience):
		k.t.Fatalf("task %d was not killed", k.job.VPID)
	}
}

// layout puts the content of tasks into a store.
type layout struct {
	store  *os.File
	next   uint32
	shared map[uint64]uint32 // slots of pages that several have
	remote func(page int) bool
}

func newLayout(path string) (*layout, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	return &layout{store: f, next: 1, shared: map[uint64]uint32{}, remote: func(int) bool { return false }}, err
}

func content(seed uint64) []byte {
	b := make([]byte, 0, pageSize)
	for i := range uint64(pageSize / 8) {
		b = binary.NativeEndian.AppendUint64(b, word(seed, i))
	}
	return b
}

// put writes a page into a new slot.
func (l *layout) put(seed uint64) (uint32, error) {
	slot := l.next
	l.next++
	_, err := l.store.WriteAt(content(seed), int64(slot)*pageSize)
	return slot, err
}

// slot is where a page is; 0, false: it is to be left out.
func (l *layout) slot(vpid, page int) (uint32, bool, error) {
	seed := seedOf(vpid, page)
	switch {
	case seed == 0:
		return ZeroSlot, page%16 == 3, nil // the others are unknown
	case l.remote(page):
		return RemoteSlot, true, nil
	case seed < 1<<63: // the same in many places
		slot, ok := l.shared[seed]
		var err error
		if !ok {
			slot, err = l.put(seed)
			l.shared[seed] = slot
		}
		return slot, true, err
	}
	if page%64 >= 40 {
		l.next++ // slots that do not follow each other
	}
	slot, err := l.put(seed)
	return slot, true, err
}

func (l *layout) task(job taskJob) (TaskPlan, error) {
	t := TaskPlan{VPID: job.VPID}
	for page := range job.Pages {
		slot, ok, err := l.slot(job.VPID, page)
		if err != nil {
			return t, err
		}
		if !ok {
			continue
		}
		addr := windowBase(job.VPID) + uint64(page)*pageSize
		if n := len(t.Extents); n > 0 && t.Extents[n-1].end() == addr {
			last := &t.Extents[n-1]
			special := slot == ZeroSlot || slot == RemoteSlot
			if special && last.Slot == slot || !special && last.Slot != ZeroSlot && last.Slot+last.Pages == slot {
				last.Pages++
				continue
			}
		}
		t.Extents = append(t.Extents, Extent{addr, 1, slot})
	}
	return t, nil
}

func (l *layout) plan(jobs ...taskJob) (*Plan, error) {
	p := &Plan{}
	for _, j := range jobs {
		t, err := l.task(j)
		if err != nil {
			return nil, err
		}
		p.Tasks = append(p.Tasks, t)
		p.Hot = append(p.Hot, Range{j.VPID, windowBase(j.VPID) + uint64(j.Pages/2)*pageSize, 8})
	}
	return p, nil
}

// plan lays the tasks' content out and hands it to the pager.
func (r *rig) plan(l *layout, jobs ...taskJob) {
	r.t.Helper()
	p, err := l.plan(jobs...)
	if err == nil {
		err = r.p.SetPlan(p)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) layout() *layout {
	r.t.Helper()
	l, err := newLayout(r.job.Store)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.store.Close() })
	return l
}

// filled waits for the end and checks the record.
func (r *rig) filled() Stats {
	r.t.Helper()
	stats, err := r.p.Filled(testContext(r.t))
	if err != nil {
		r.t.Fatal(err)
	}
	<-r.p.reaped
	rec := readRecord(r.t, r.job)
	if rec.Result != ResultFilled || rec.Pages != stats.Pages || rec.Faults != stats.Faults || rec.ZeroPages != stats.ZeroPages {
		r.t.Fatalf("record %+v, stats %+v", rec, stats)
	}
	return stats
}

func readRecord(t *testing.T, job Job) Record {
	t.Helper()
	b, err := os.ReadFile(job.Record)
	if err != nil {
		t.Fatal(err)
	}
	var rec Record
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	return rec
}

// childOf is the only child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	// threads start children as well
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, path := range all {
		more, _ := os.ReadFile(path)
		b = append(b, more...)
	}
	fields := strings.Fields(string(b))
	if len(fields) == 0 {
		t.Fatalf("process %d has no child", pid)
	}
	child, err := strconv.Atoi(fields[0])
	if err != nil {
		t.Fatal(err)
	}
	return child
}

// waitGone waits until a process that need not be our child has ended.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(patience); alive(pid); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d does not end", pid)
		}
	}
}
