package criu

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	pstree "github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

// TestPassPids checks which pid a container's next process gets.
func TestPassPids(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root for a namespace of pids")
	}
	// the namespace ends with the thread that made it, and PassPids ends threads
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// each line has it start a process and say that one's pid
	cmd := exec.Command("sh", "-c", `while read -r line; do sh -c 'echo $$'; done`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
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
	defer func() { _, _ = in.Close(), cmd.Wait() }()
	answers := bufio.NewReader(out)
	next := func() (pid int) {
		t.Helper()
		if _, err := fmt.Fprintln(in); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscanln(answers, &pid); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	dir := t.TempDir()
	if err := PassPids(cmd.Process.Pid, dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no image of processes: %v", err)
	}
	writeTree(t, dir, &pstree.PstreeEntry{Pid: proto.Uint32(1), Threads: []uint32{1}},
		&pstree.PstreeEntry{Pid: proto.Uint32(400), Threads: []uint32{400, 1200, 700}}, &pstree.PstreeEntry{Pid: proto.Uint32(800)}, zombie(801))
	if pid := next(); pid >= 400 {
		t.Fatalf("the first process gets pid %d", pid)
	}
	for _, most := range []int{1202, 1205} { // the second time it is beyond already
		if err := PassPids(cmd.Process.Pid, dir); err != nil {
			t.Fatal(err)
		}
		if pid := next(); pid <= 1200 || pid > most {
			t.Errorf("the next process gets pid %d", pid)
		}
	}
}

func TestPassPidsRefuses(t *testing.T) {
	dir := t.TempDir()
	writeTree(t, dir, &pstree.PstreeEntry{Pid: proto.Uint32(1 << 30)})
	if err := PassPids(os.Getpid(), dir); err != nil {
		t.Errorf("the host's pids: %v", err)
	}
	if err := PassPids(1<<30, dir); err == nil || !strings.Contains(err.Error(), "pass the pids") {
		t.Errorf("no such process: %v", err)
	}
}
