package pager

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// agentJob is what an agent does that is going to be killed.
type agentJob struct {
	Job    Job
	Task   taskJob
	Remote bool // one page never comes
	Commit bool
	Pid    int
}

// agentMain starts a pager, says so, goes as far as it is told when it has read a line, says so again, and waits for its end.
func agentMain(arg string) int {
	var job agentJob
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		return 2
	}
	p, err := Start(context.Background(), self, job.Job)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(p.cmd.Process.Pid)
	in := bufio.NewReader(os.Stdin)
	line, _ := in.ReadString('\n')
	_, _ = fmt.Sscan(line, &job.Pid)
	fmt.Println(prepare(p, job))
	time.Sleep(patience)
	return 0
}

func prepare(p *Pager, job agentJob) error {
	l, err := newLayout(job.Job.Store)
	if err != nil {
		return err
	}
	if job.Remote {
		l.remote = func(page int) bool { return page == job.Task.Pages-2 }
	}
	plan, err := l.plan(job.Task)
	if err != nil {
		return err
	}
	err = errors.Join(p.SetPlan(plan), p.SetContainer("", job.Pid))
	if job.Commit {
		err = errors.Join(err, p.Commit(), p.Fill())
	}
	return err
}

// killAgent restores a task with the pager of an agent that is killed before the task runs. It returns the pids of the pager.
func killAgent(t *testing.T, job agentJob) (k *task, guard, worker int) {
	t.Helper()
	arg, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "MIGRATE_TEST_AGENT="+string(arg))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewReader(out)
	line, _ := lines.ReadString('\n')
	if _, err := fmt.Sscan(line, &guard); err != nil {
		t.Fatalf("agent: %q", line)
	}
	worker = childOf(t, guard)
	r := &rig{t: t, job: job.Job}
	r.connect()
	k = newTask(t, job.Task)
	r.send(k)
	if _, err := io.WriteString(in, fmt.Sprintln(k.cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if line, _ := lines.ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("agent: %q", line)
	}
	r.restored()
	return k, guard, worker
}

func TestAgentDiesBeforeCommit(t *testing.T) {
	job := agentJob{Job: newJob(t), Task: halves}
	_, guard, worker := killAgent(t, job)
	waitGone(t, guard)
	waitGone(t, worker)
	if rec := readRecord(t, job.Job); rec.Result != ResultFailed {
		t.Errorf("%+v", rec)
	}
}

func TestAgentDiesAfterCommit(t *testing.T) {
	job := agentJob{Job: newJob(t), Task: taskJob{VPID: 2, Pages: 4096, Mode: "churn", Seed: 3, Steps: 2000, Threads: 2}, Commit: true}
	k, guard, worker := killAgent(t, job)
	k.resume()
	k.wait()
	waitGone(t, guard)
	waitGone(t, worker)
	if rec := readRecord(t, job.Job); rec.Result != ResultFilled || rec.Pages == 0 {
		t.Errorf("%+v", rec)
	}
}

// Nobody brings the remote pages any more.
func TestAgentDiesWithRemotePages(t *testing.T) {
	job := agentJob{Job: newJob(t), Task: halves, Remote: true, Commit: true}
	k, guard, worker := killAgent(t, job)
	k.waitKilled()
	waitGone(t, guard)
	waitGone(t, worker)
	if rec := readRecord(t, job.Job); rec.Result != ResultLost || rec.Cause == "" {
		t.Errorf("%+v", rec)
	}
}

// The pages that have not come never will: the agent has found out.
func TestRemotePagesAreLost(t *testing.T) {
	r := newRig(t)
	r.connect()
	k := newTask(t, halves)
	r.send(k)
	l := r.layout()
	l.remote = func(page int) bool { return page == halves.Pages-2 }
	r.plan(l, halves)
	if err := errors.Join(r.p.SetContainer("", k.cmd.Process.Pid), r.p.Commit(), r.p.Fill()); err != nil {
		t.Fatal(err)
	}
	r.restored()
	k.resume()
	if err := r.p.Lose("the other host is gone"); err != nil {
		t.Fatal(err)
	}
	k.waitKilled()
	if _, err := r.p.Filled(testContext(t)); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "the other host is gone") {
		t.Errorf("%v, want ErrLost and why", err)
	}
	<-r.p.reaped
	if rec := readRecord(t, r.job); rec.Result != ResultLost || rec.Cause != "the other host is gone" {
		t.Errorf("%+v", rec)
	}
}
