package criu

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestKillUsersEndsThemAndTheirChildren(t *testing.T) {
	dir := t.TempDir()
	user := exec.Command("sh", "-c", "sleep 1000 & echo up; wait", filepath.Join(dir, "images"))
	out, err := user.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	if err := KillUsers(dir); err != nil {
		t.Fatal(err)
	}
	// the pipe's last writer is the child: end-of-file says that it is gone
	if n, err := out.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes from what should be dead", n)
	}
	if err := user.Wait(); err == nil {
		t.Error("the user of the directory ended by itself")
	}
	if _, ok := parentOf(other.Process.Pid); !ok {
		t.Error("a process that does not use the directory was killed")
	}
}
