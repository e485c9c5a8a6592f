package pager

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// sleeper is a process with a pid namespace of its own, or without.
func sleeper(t *testing.T, own bool) (pid int, ended chan struct{}) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if own {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	return cmd.Process.Pid, ended
}

// A container that an engine starts anew when it has been killed is another one.
func TestKillLeavesTheNextRunAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, for a pid namespace")
	}
	dir := t.TempDir()
	procs, freezer := filepath.Join(dir, "cgroup.procs"), filepath.Join(dir, "freezer.state")
	in := func(pids ...int) {
		t.Helper()
		text := ""
		for _, pid := range pids {
			text += fmt.Sprintln(pid)
		}
		if err := os.WriteFile(procs, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	init, ended := sleeper(t, true)
	next, nextEnded := sleeper(t, true)
	in(init)
	b, err := openBox(freezer, init)
	if err != nil {
		t.Fatal(err)
	}
	go func() { <-ended; in(next) }()
	killed := make(chan struct{})
	go func() { b.kill(slog.New(slog.DiscardHandler)); close(killed) }()
	select {
	case <-killed:
	case <-time.After(10 * time.Second):
		t.Fatal("it does not end")
	}
	b.kill(slog.New(slog.DiscardHandler)) // guard and worker both do it
	select {
	case <-nextEnded:
		t.Error("the next run was killed, too")
	default:
	}
}

// The directory of records is made by whoever comes first.
func TestRecordWithoutADirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log", "x-fill.json")
	if err := (Record{Result: ResultLost}).write(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
