package throttle

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"migrate/internal/cgroup"
	"migrate/internal/inherit"
)

// Steps, in percent of what the container took unthrottled, as QEMU's auto-converge has them.
const (
	firstStep = 20
	nextStep  = 10
	lastStep  = 99
)

// answerLimit bounds the wait for the keeper, which writes a file or two.
const answerLimit = 5 * time.Second

// Throttle is a container's. It is for one goroutine at a time.
type Throttle struct {
	quota   *cgroup.Quota
	full    float64 // CPUs that the container took before
	percent int     // taken away
	cmd     *exec.Cmd
	control io.WriteCloser
	answers chan string // closed when the keeper has ended
	end     sync.Once
	ended   error
}

// Start starts a keeper for the container that a process is in, which has taken full CPUs; self is how to run this
// program as a keeper, up to its last argument. The keeper keeps the file open, unless that is nil. Nothing is limited yet. The caller must End it.
func Start(ctx context.Context, self []string, pid int, full float64, keep *os.File) (*Throttle, error) {
	q, err := cgroup.QuotaOf(pid)
	if err != nil {
		return nil, err
	}
	return start(ctx, self, q, full, keep)
}

func start(ctx context.Context, self []string, q *cgroup.Quota, full float64, keep *os.File) (*Throttle, error) {
	job, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("encode the keeper's job: %w", err)
	}
	t := &Throttle{quota: q, full: min(full, q.CPUs()), answers: make(chan string, 1)}
	t.cmd = exec.Command(self[0], append(self[1:len(self):len(self)], string(job))...)
	// a session of its own: a Ctrl-C on the terminal is for the agent, which undoes things in order
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	inherit.Pass(t.cmd, keep)
	if t.control, err = t.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the keeper of the CPU limit: %w", err)
	}
	out, err := t.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the keeper of the CPU limit: %w", err)
	}
	if err := t.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the keeper of the CPU limit: %w", err)
	}
	go t.follow(out)
	if err := t.await(ctx, wordReady); err != nil {
		return nil, errors.Join(fmt.Errorf("start the keeper of the CPU limit: %w", err), t.End())
	}
	return t, nil
}

// follow hands on what the keeper says until it ends, and reaps it.
func (t *Throttle) follow(out io.Reader) {
	for sc := bufio.NewScanner(out); sc.Scan(); {
		t.answers <- sc.Text()
	}
	_ = t.cmd.Wait() // what it said tells more than its exit status
	close(t.answers)
}

// errKeeper says that the keeper ended by itself.
var errKeeper = errors.New("the keeper has ended")

// await waits for the keeper's next word.
func (t *Throttle) await(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	select {
	case got, ok := <-t.answers:
		switch {
		case !ok:
			return errKeeper
		case got != want:
			return errors.New(got)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the keeper: %w", context.Cause(ctx))
	}
}

// Percent is how much is taken away of what the container took.
func (t *Throttle) Percent() int { return t.percent }

// More says whether there is another step.
func (t *Throttle) More() bool { return t.percent < lastStep }

// Step takes away more. After an error nothing is certain but that End gives back.
func (t *Throttle) Step(ctx context.Context) error {
	percent := firstStep
	if t.percent > 0 {
		percent = min(t.percent+nextStep, lastStep)
	}
	cpus := t.full * float64(100-percent) / 100
	if _, err := fmt.Fprintf(t.control, "%s%.6f\n", wordLimit, max(cpus, 1e-6)); err != nil {
		return fmt.Errorf("throttle the container: %w", err)
	}
	if err := t.await(ctx, wordOK); err != nil {
		return fmt.Errorf("throttle the container: %w", err)
	}
	t.percent = percent
	return nil
}

// End gives the container what it had, and returns when it has it. Ending twice is harmless.
func (t *Throttle) End() error {
	t.end.Do(func() { t.ended = t.giveBack() })
	return t.ended
}

func (t *Throttle) giveBack() error {
	_ = t.control.Close() // the keeper may be gone
	last := ""
	limit := time.NewTimer(answerLimit)
	defer limit.Stop()
	for {
		select {
		case word, ok := <-t.answers:
			if ok {
				last = word
				continue
			}
			if last == wordOK {
				return nil
			}
		case <-limit.C:
			_ = t.cmd.Process.Kill()
			go t.drain()
		}
		return t.quota.Restore()
	}
}

// drain lets follow end.
func (t *Throttle) drain() {
	for range t.answers {
		continue
	}
}
