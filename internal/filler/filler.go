package filler

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"migrate/internal/cgroup"
)

// Filler is the process as its agent has it. Its methods are called one after another, other than End.
type Filler struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	end sync.Once
}

// Start starts the process and does not wait for it; self is how to run this program as Run. The caller must End it.
func Start(self []string) (*Filler, error) {
	f := &Filler{cmd: exec.Command(self[0], self[1:]...)}
	// a session of its own: a Ctrl-C on the terminal is for the agent, which undoes things in order
	f.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var err error
	if f.in, err = f.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the filler: %w", err)
	}
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the filler: %w", err)
	}
	f.out = bufio.NewReader(out)
	if err := f.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the filler: %w", err)
	}
	return f, nil
}

// leastCPUs is what a group has to have for a filler in it to be faster than going through the processes.
const leastCPUs = 1

// ErrLimited says that the container has a group of version 2 whose CPU time is limited, which a filler in it would have to share.
var ErrLimited = errors.New("the container's memory cannot be accounted to it apart from its CPU time")

// Join has what is filled accounted to the container that a process is in. Where the kernel does not account memory nothing is done.
func (f *Filler) Join(ctx context.Context, pid int) error {
	if err := f.await(ctx, wordReady); err != nil {
		return fmt.Errorf("start the filler: %w", err)
	}
	d, err := cgroup.Find(pid, "memory")
	if errors.Is(err, cgroup.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.Unified {
		if _, err := os.Stat(filepath.Join(d.Path, "memory.current")); err != nil {
			return nil // the group has no such controller
		}
		if q, err := cgroup.QuotaOf(pid); err == nil && q.CPUs() < leastCPUs {
			return ErrLimited
		}
	}
	procs := filepath.Join(d.Path, "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(f.cmd.Process.Pid)), 0); err != nil {
		return fmt.Errorf("account memory to the container: %w", err)
	}
	return nil
}

// Fill does a job and returns when it is done. Objects that several pieces write in the same place get either content.
func (f *Filler) Fill(ctx context.Context, job Job, pieces []Piece) error {
	sent := make(chan error, 1)
	go func() {
		err := writeJob(f.in, job, pieces)
		sent <- errors.Join(err, f.in.Close())
	}()
	// a process that gave up early tells why, which is more than that it reads no further
	if err := f.await(ctx, wordOK); err != nil {
		return fmt.Errorf("put in shared memory: %w", err)
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("tell the filler: %w", err)
	}
	return nil
}

// await waits for a word. When ctx ends so does the process.
func (f *Filler) await(ctx context.Context, want string) error {
	stop := context.AfterFunc(ctx, func() { _ = f.cmd.Process.Kill() })
	defer stop()
	line, err := f.out.ReadString('\n')
	line = strings.TrimSuffix(line, "\n")
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return errors.New("it has ended")
	case line != want:
		return errors.New(line)
	}
	return nil
}

// End ends the process if it has not ended by itself, and returns when it is gone. Ending twice is harmless.
func (f *Filler) End() {
	f.end.Do(func() {
		_ = f.cmd.Process.Kill()
		_ = f.cmd.Wait() // what it said tells more than its exit status
	})
}
