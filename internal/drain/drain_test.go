package drain

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the process that Start starts.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "drain" {
		os.Exit(RunMain(os.Args[2]))
	}
	os.Exit(m.Run())
}

type rig struct {
	t   *testing.T
	job Job
}

func newRig(t *testing.T) *rig {
	dir := t.TempDir()
	r := &rig{t, Job{
		FIFOs: []string{filepath.Join(dir, "out"), filepath.Join(dir, "err")}, Remove: []string{filepath.Join(dir, "in")}, Log: filepath.Join(dir, "log"),
	}}
	for _, path := range append(r.job.FIFOs, r.job.Remove...) {
		if err := unix.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// start returns a channel that is closed when the process has ended.
func (r *rig) start() (gone <-chan struct{}) {
	r.t.Helper()
	stop, err := Start(r.t.Context(), []string{"/proc/self/exe", "drain"}, r.job)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(stop)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for pidsOf(r.job.Log) > 0 {
			time.Sleep(5 * time.Millisecond)
		}
	}()
	return ended
}

// pidsOf counts the processes that have a file open for writing.
func pidsOf(path string) int {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	n := 0
	procs, _ := os.ReadDir("/proc")
	for _, p := range procs {
		fds, _ := os.ReadDir("/proc/" + p.Name() + "/fd")
		for _, fd := range fds {
			var f unix.Stat_t
			if unix.Stat("/proc/"+p.Name()+"/fd/"+fd.Name(), &f) == nil && f.Ino == st.Ino && f.Dev == st.Dev {
				n++
			}
		}
	}
	return n
}

// shim opens a FIFO as a shim does, both ends.
func (r *rig) shim(path string) (w, rd *os.File) {
	r.t.Helper()
	for i, mode := range []int{os.O_WRONLY, os.O_RDONLY} {
		f, err := os.OpenFile(path, mode, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { f.Close() })
		if i == 0 {
			w = f
		} else {
			rd = f
		}
	}
	return w, rd
}

func (r *rig) logged(want string) {
	r.t.Helper()
	var got []byte
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if got, _ = os.ReadFile(r.job.Log); string(got) == want {
			return
		}
	}
	r.t.Fatalf("logged %q, want %q", got, want)
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("not within 20 s: " + what)
	}
}

func TestOutputIsKept(t *testing.T) {
	r := newRig(t)
	gone := r.start()
	w, rd := r.shim(r.job.FIFOs[0])
	w2, rd2 := r.shim(r.job.FIFOs[1])
	w.WriteString("one\n")
	r.logged("one\n")
	w2.WriteString("two\n")
	r.logged("one\ntwo\n")
	// more than a FIFO holds does not stop the container
	big := strings.Repeat("x", 4*bufSize)
	w.WriteString(big)
	r.logged("one\ntwo\n" + big)
	w.WriteString("last\n")
	for _, f := range []*os.File{w, rd, w2, rd2} {
		f.Close()
	}
	await(t, gone, "the process ends with the container")
	r.logged("one\ntwo\n" + big + "last\n")
	for _, path := range append(r.job.FIFOs, r.job.Remove...) {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

// Whoever attaches gets all that is written meanwhile.
func TestStepsAside(t *testing.T) {
	r := newRig(t)
	gone := r.start()
	w, rd := r.shim(r.job.FIFOs[0])
	w2, rd2 := r.shim(r.job.FIFOs[1])
	w.WriteString("before\n")
	r.logged("before\n")

	// this process is the shim, so the client has to be another one
	out := filepath.Join(t.TempDir(), "attached")
	client, err := os.StartProcess("/bin/cat", []string{"cat", r.job.FIFOs[0]}, &os.ProcAttr{Files: []*os.File{nil, create(t, out), nil}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Kill()
	// until the process has noticed, either may get what is written
	written, seen := "", func() string { b, _ := os.ReadFile(out); return string(b) }
	for end := time.Now().Add(20 * time.Second); seen() == "" && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		w.WriteString("?")
	}
	time.Sleep(100 * time.Millisecond) // it notices both opening and reading at about the same time
	before := seen()
	for range 200 {
		w.WriteString("attached\n")
		written += "attached\n"
	}
	for end := time.Now().Add(20 * time.Second); len(seen()) < len(before)+len(written) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if got := seen(); !strings.HasSuffix(got, written) {
		t.Errorf("the client got %d bytes after it was noticed, want %d", len(got)-len(before), len(written))
	}
	client.Kill()
	client.Wait()
	logged, _ := os.ReadFile(r.job.Log)
	w.WriteString("after\n")
	r.logged(string(logged) + "after\n")
	for _, f := range []*os.File{w, rd, w2, rd2} {
		f.Close()
	}
	await(t, gone, "the process ends with the container")
}

func create(t *testing.T, path string) *os.File {
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A container that was never made leaves no process behind, also when nobody stops it.
func TestNoWriter(t *testing.T) {
	r := newRig(t)
	gone := r.start()
	for _, path := range r.job.FIFOs {
		os.Remove(path)
	}
	await(t, gone, "the process ends with the FIFOs")
}

// What was written before the FIFO was removed is kept.
func TestRemovedBeforeTheEnd(t *testing.T) {
	r := newRig(t)
	gone := r.start()
	w, rd := r.shim(r.job.FIFOs[0])
	for _, path := range r.job.FIFOs {
		os.Remove(path)
	}
	w.WriteString("late\n")
	w.Close()
	rd.Close()
	await(t, gone, "the process ends with the container")
	r.logged("late\n")
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	r := newRig(t)
	r.job.FIFOs[1] += "-not"
	_, err := Start(t.Context(), []string{"/proc/self/exe", "drain"}, r.job)
	if err == nil || !strings.Contains(err.Error(), "err-not") {
		t.Errorf("Start: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := Start(ctx, []string{"/bin/sleep", "60"}, r.job); err == nil {
		t.Error("started something that never reads")
	}
	if _, err := Start(t.Context(), []string{"/bin/true"}, r.job); err == nil || !strings.Contains(err.Error(), "without a word") {
		t.Errorf("Start: %v", err)
	}
}
