package pager

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// run restores tasks, fills them, and waits until they have verified their memory and all is filled.
func (r *rig) run(jobs ...taskJob) Stats {
	r.t.Helper()
	var tasks []*task
	r.connect()
	for _, j := range jobs {
		k := newTask(r.t, j)
		r.send(k)
		tasks = append(tasks, k)
	}
	r.plan(r.layout(), jobs...)
	if err := r.p.Fill(); err != nil {
		r.t.Fatal(err)
	}
	r.restored()
	for _, k := range tasks {
		k.resume()
	}
	for _, k := range tasks {
		k.wait()
	}
	return r.filled()
}

func TestRandomAccessWhileFilling(t *testing.T) {
	r := newRig(t)
	stats := r.run(taskJob{VPID: 1, Pages: 8192, Mode: "sweep", Seed: 1, Steps: 5000, Threads: 4, Split: true})
	want := int64(0)
	for page := range 8192 {
		if seedOf(1, page) != 0 {
			want++
		}
	}
	if stats.Pages != want {
		t.Errorf("%d pages were copied, want %d", stats.Pages, want)
	}
	// what is filled is not held twice
	var st syscall.Stat_t
	if err := syscall.Stat(r.job.Store, &st); err != nil {
		t.Fatal(err)
	}
	if left := st.Blocks * 512; left > st.Size/2 {
		t.Errorf("%d of %d bytes are left in the store", left, st.Size)
	}
}

// Without Fill every page comes by a fault, and none is filled that nobody touched.
func TestFaultsAlone(t *testing.T) {
	r := newRig(t)
	job := taskJob{VPID: 3, Pages: 512, Mode: "sweep", Seed: 2, Steps: 10}
	r.connect()
	k := newTask(t, job)
	r.send(k)
	r.plan(r.layout(), job)
	r.restored()
	k.resume()
	k.wait()
	stats := r.filled() // as all were touched
	if stats.Faults < 512 || stats.ZeroPages < 512*3/16 {
		t.Errorf("%+v", stats)
	}
}

func TestChurn(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			newRig(t).run(taskJob{VPID: 1, Pages: 4096, Mode: "churn", Seed: seed, Steps: 3000, Threads: 1 + int(seed)})
		})
	}
}

func TestForks(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			newRig(t).run(taskJob{VPID: 1, Pages: 1024, Mode: "forks", Seed: seed, Steps: 400, Threads: 1 + int(seed)})
		})
	}
}

func TestSeveralTasks(t *testing.T) {
	var jobs []taskJob
	for i, mode := range []string{"sweep", "churn", "forks", "churn", "sweep"} {
		jobs = append(jobs, taskJob{VPID: 1 + i, Pages: 1024, Mode: mode, Seed: uint64(i), Steps: 500, Threads: 2})
	}
	newRig(t).run(jobs...)
}

// Zombies have no descriptor; a task that the plan does not know has zeros everywhere; the plan may name tasks that do not come, and
// may come late.
func TestOddTasks(t *testing.T) {
	r := newRig(t)
	r.connect()
	r.sendInt(-7)
	known := taskJob{VPID: 1, Pages: 1024, Mode: "sweep", Seed: 1, Steps: 100}
	absent := taskJob{VPID: 5, Pages: 1024}
	a := newTask(t, known)
	r.send(a)
	b := newTask(t, taskJob{VPID: 2, Pages: 64, Mode: "halves"})
	r.send(b)
	r.sendInt(-8)
	r.restored()
	a.resume()
	b.resume()
	if err := r.p.Fill(); err != nil {
		t.Fatal(err)
	}
	l := r.layout()
	plan, err := l.plan(known, absent)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.p.SetPlan(plan); err != nil {
		t.Fatal(err)
	}
	if err := r.p.SetPlan(plan); err == nil {
		// the second one may also meet a pager that is done
		t.Error("a second plan was taken")
	}
	a.wait()
	// the pattern of b's second page is not zero, as the plan does not know it
	if err := <-b.ended; err == nil || b.stderr.String()[0] != 'W' {
		t.Errorf("task without plan: %v, %q", err, b.stderr.String())
	}
	r.filled()
}

// remotePages answers requests late and in odd portions, and sends the rest unasked.
func remotePages(t *testing.T, r *rig, l *layout, job taskJob) {
	var absent []int
	for page := range job.Pages {
		if seedOf(job.VPID, page) != 0 && l.remote(page) {
			absent = append(absent, page)
		}
	}
	sent := map[int]bool{}
	var batch []Arrival
	flush := func() {
		if err := r.p.Arrived(batch...); err != nil {
			t.Error(err)
		}
		batch = nil
	}
	send := func(page int) {
		if sent[page] {
			return
		}
		sent[page] = true
		slot, err := l.put(seedOf(job.VPID, page))
		if err != nil {
			t.Error(err)
		}
		batch = append(batch, Arrival{job.VPID, windowBase(job.VPID) + uint64(page)*pageSize, 1, slot})
	}
	rng := rand.New(rand.NewPCG(1, job.Seed))
	requests := r.p.Requests()
	for len(absent) > 0 {
		select {
		case q, ok := <-requests:
			if !ok {
				requests = nil
				continue
			}
			time.Sleep(time.Duration(rng.IntN(300)) * time.Microsecond) // as a network has it
			send(int((q.Addr - windowBase(job.VPID)) / pageSize))
			flush()
		case <-time.After(time.Millisecond):
			n := min(1+rng.IntN(40), len(absent))
			for _, page := range absent[:n] {
				send(page)
			}
			absent = absent[n:]
			flush()
		}
	}
	for range r.p.Requests() { // the pager may have asked for what was under way
	}
}

func TestRemotePages(t *testing.T) {
	for i, mode := range []string{"sweep", "churn", "forks"} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t)
			job := taskJob{VPID: 4, Pages: 2048, Mode: mode, Seed: uint64(i), Steps: 800, Threads: 2}
			r.connect()
			k := newTask(t, job)
			r.send(k)
			l := r.layout()
			l.remote = func(page int) bool { return page%64 > 20 }
			r.plan(l, job)
			if err := r.p.Fill(); err != nil {
				t.Fatal(err)
			}
			r.restored()
			k.resume()
			served := make(chan struct{})
			go func() {
				defer close(served)
				remotePages(t, r, l, job)
			}()
			k.wait()
			r.filled()
			<-served
		})
	}
}

// A remote page turns out to be zero, and one comes that was never remote.
func TestArrivals(t *testing.T) {
	r := newRig(t)
	job := taskJob{VPID: 1, Pages: 64, Mode: "halves"}
	r.connect()
	k := newTask(t, job)
	r.send(k)
	base := windowBase(1)
	if err := os.WriteFile(r.job.Store, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.p.SetPlan(&Plan{Tasks: []TaskPlan{{1, []Extent{{base, 64, RemoteSlot}}}}}); err != nil {
		t.Fatal(err)
	}
	if err := r.p.Fill(); err != nil {
		t.Fatal(err)
	}
	r.restored()
	k.resume()
	if q := <-r.p.Requests(); q != (Request{1, base}) {
		t.Errorf("request %+v", q)
	}
	if err := r.p.Arrived(Arrival{1, base, 64, ZeroSlot}); err != nil {
		t.Fatal(err)
	}
	if err := <-k.ended; err == nil || k.stderr.String()[0] != 'W' {
		t.Errorf("task: %v, %q, want it to have read zeros", err, k.stderr.String())
	}
	if stats := r.filled(); stats.Pages != 0 {
		t.Errorf("%+v, want no page copied", stats)
	}
}

// halfway brings a task to where it has seen half of its memory, and nothing is filled in the background.
func (r *rig) halfway(job taskJob) *task {
	r.t.Helper()
	r.connect()
	k := newTask(r.t, job)
	r.send(k)
	r.plan(r.layout(), job)
	r.restored()
	k.resume()
	if _, err := k.control.Read(make([]byte, 1)); err != nil {
		r.t.Fatalf("%v\n%s", err, k.stderr.String())
	}
	return k
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

var halves = taskJob{VPID: 9, Pages: 2048, Mode: "halves"}

func TestWorkerDies(t *testing.T) {
	for _, commit := range []bool{false, true} {
		t.Run(fmt.Sprintf("commit=%v", commit), func(t *testing.T) {
			r := newRig(t)
			k := r.halfway(halves)
			if err := r.p.SetContainer("", k.cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if commit {
				if err := r.p.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			kill(t, childOf(t, r.p.cmd.Process.Pid))
			_, _ = k.control.Write([]byte{1}) // it may be dead already
			k.waitKilled()
			if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrLost) {
				t.Errorf("%v, want ErrLost", err)
			}
			<-r.p.reaped
			if rec := readRecord(t, r.job); rec.Result != ResultLost || rec.Cause == "" {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// Until it is known which container to kill, its tasks block.
func TestWorkerDiesBeforeContainerIsNamed(t *testing.T) {
	r := newRig(t)
	k := r.halfway(halves)
	kill(t, childOf(t, r.p.cmd.Process.Pid))
	if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrLost) {
		t.Fatalf("%v, want ErrLost", err)
	}
	k.resume()
	select {
	case err := <-k.ended:
		t.Fatalf("the task went on without its memory: %v\n%s", err, k.stderr.String())
	case <-time.After(300 * time.Millisecond):
	}
	if err := r.p.SetContainer(fakeFreezer(t, k.cmd.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	k.waitKilled()
	<-r.p.reaped
}

// fakeFreezer is a directory that looks like a cgroup with these tasks.
func fakeFreezer(t *testing.T, pid int) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/cgroup.procs", fmt.Appendln(nil, pid), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/freezer.state", []byte("FROZEN"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir + "/freezer.state"
}

func TestWorkerDiesDuringChurn(t *testing.T) {
	r := newRig(t)
	job := taskJob{VPID: 1, Pages: 8192, Mode: "forks", Seed: 5, Steps: 1 << 30, Threads: 2}
	r.connect()
	k := newTask(t, job)
	r.send(k)
	l := r.layout()
	l.remote = func(page int) bool { return page == 8191-1 } // never arrives
	r.plan(l, job)
	if err := errors.Join(r.p.SetContainer("", k.cmd.Process.Pid), r.p.Commit(), r.p.Fill()); err != nil {
		t.Fatal(err)
	}
	r.restored()
	k.resume()
	time.Sleep(100 * time.Millisecond) // in the middle of something
	kill(t, childOf(t, r.p.cmd.Process.Pid))
	k.waitKilled()
	if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrLost) {
		t.Errorf("%v, want ErrLost", err)
	}
}

func TestGuardDies(t *testing.T) {
	r := newRig(t)
	k := r.halfway(halves)
	if err := errors.Join(r.p.SetContainer("", k.cmd.Process.Pid), r.p.Commit()); err != nil {
		t.Fatal(err)
	}
	worker := childOf(t, r.p.cmd.Process.Pid)
	kill(t, r.p.cmd.Process.Pid)
	<-r.p.reaped
	k.resume()
	if err := r.p.Fill(); err != nil {
		t.Fatal(err)
	}
	k.wait()
	r.filled()
	waitGone(t, worker)
}

// When both are gone there is no one left to say so but the agent.
func TestBothDie(t *testing.T) {
	r := newRig(t)
	guard := r.p.cmd.Process.Pid
	worker := childOf(t, guard)
	kill(t, guard)
	kill(t, worker)
	if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrLost) {
		t.Errorf("%v, want ErrLost", err)
	}
	if err := r.p.Commit(); err == nil {
		t.Error("committed to nobody")
	}
	if err := r.p.SetPlan(&Plan{}); err == nil {
		t.Error("planned for nobody")
	}
}

func TestCommitNeedsContainer(t *testing.T) {
	r := newRig(t)
	if err := r.p.Commit(); err == nil {
		t.Error("committed without knowing the container")
	}
}

// Everything may be in place before the agent commits.
func TestCommitAfterEnd(t *testing.T) {
	r := newRig(t)
	r.run(taskJob{VPID: 1, Pages: 64, Mode: "sweep"})
	if err := errors.Join(r.p.Fill(), r.p.Commit()); err != nil {
		t.Error(err)
	}
	r.p.Abort()
}

func TestAbort(t *testing.T) {
	for name, prepare := range map[string]func(*rig){
		"at once":   func(*rig) {},
		"connected": func(r *rig) { r.connect() },
		"halfway":   func(r *rig) { r.halfway(halves) },
		"lost": func(r *rig) {
			r.halfway(halves)
			kill(r.t, childOf(r.t, r.p.cmd.Process.Pid))
		},
		"guard died": func(r *rig) {
			r.halfway(halves)
			kill(r.t, r.p.cmd.Process.Pid)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			worker := childOf(t, r.p.cmd.Process.Pid)
			prepare(r)
			r.p.Abort()
			waitGone(t, worker)
			waitGone(t, r.p.cmd.Process.Pid)
			if _, err := r.p.Filled(testContext(t)); err == nil {
				t.Error("filled after an abort")
			}
			r.p.Abort()
		})
	}
}

func TestBrokenCRIU(t *testing.T) {
	pipe := func(t *testing.T) int {
		a, b, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close(); b.Close() })
		return int(a.Fd())
	}
	for name, speak := range map[string]func(*rig){
		"nothing":  func(*rig) {},
		"half":     func(r *rig) { _, _ = r.criu.Write([]byte{1, 2}) },
		"no task":  func(r *rig) { r.sendInt(0) },
		"no fd":    func(r *rig) { r.sendInt(5); r.sendInt(6) },
		"no uffd":  func(r *rig) { r.sendInt(5); r.sendFD(pipe(r.t)) },
		"one task": func(r *rig) { r.send(newTask(r.t, halves)) },
		"twice":    func(r *rig) { r.send(newTask(r.t, halves)); r.send(newTask(r.t, halves)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.connect()
			speak(r)
			r.criu.Close()
			if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrFailed) {
				t.Errorf("%v, want ErrFailed", err)
			}
			if rec := readRecord(t, r.job); rec.Result != ResultFailed || rec.Cause == "" {
				t.Errorf("%+v", rec)
			}
		})
	}
}

// The store is shorter than the plan says. Whichever of the two is left kills the container.
func TestUnreadableStore(t *testing.T) {
	for _, guarded := range []bool{true, false} {
		t.Run(fmt.Sprintf("guarded=%v", guarded), func(t *testing.T) {
			r := newRig(t)
			r.connect()
			k := newTask(t, halves)
			r.send(k)
			if err := errors.Join(
				r.p.SetPlan(&Plan{Tasks: []TaskPlan{{halves.VPID, []Extent{{windowBase(halves.VPID), 2048, 1}}}}}),
				r.p.SetContainer("", k.cmd.Process.Pid), r.p.Commit()); err != nil {
				t.Fatal(err)
			}
			worker := childOf(t, r.p.cmd.Process.Pid)
			if !guarded {
				kill(t, r.p.cmd.Process.Pid)
				<-r.p.reaped
			}
			r.restored()
			k.resume()
			k.waitKilled()
			if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrLost) {
				t.Errorf("%v, want ErrLost", err)
			}
			waitGone(t, worker)
			if rec := readRecord(t, r.job); rec.Result != ResultLost || rec.Cause == "" {
				t.Errorf("%+v", rec)
			}
		})
	}
}

func TestStartFails(t *testing.T) {
	job := newJob(t)
	for name, start := range map[string]func() (*Pager, error){
		"no directory": func() (*Pager, error) { return Start(testContext(t), self, Job{Work: job.Work + "/missing"}) },
		"no program":   func() (*Pager, error) { return Start(testContext(t), []string{"/missing"}, job) },
		"dies":         func() (*Pager, error) { return Start(testContext(t), []string{"/bin/false"}, job) },
	} {
		t.Run(name, func(t *testing.T) {
			p, err := start()
			if err == nil {
				p.Abort()
				t.Error("started")
			}
		})
	}
}
