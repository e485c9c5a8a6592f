package criu

import (
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
)

// lazyRequest is a dump whose guard starts with few descriptors.
func lazyRequest(t *testing.T, dir string, lazy bool) DumpRequest {
	t.Helper()
	s, err := NewStage(filepath.Join(dir, "run"), "x", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	req := request(dir, s)
	req.Self, req.Lazy = []string{"sh", "-c", `ulimit -S -n ` + few + ` && exec "$0" "$@"`, self}, lazy
	return req
}

const few = "512" // descriptors

// held goes as far as the hold.
func held(t *testing.T, req DumpRequest) *Dump {
	t.Helper()
	d, err := PrepareDump(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Begin(); err != nil {
		t.Fatal(err)
	}
	if err := d.WaitHeld(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLazyDumpGetsDescriptors(t *testing.T) {
	all, err := descriptorLimit()
	if err != nil {
		t.Fatal(err)
	}
	for lazy, want := range map[bool]string{true: strconv.FormatInt(all, 10), false: few} {
		dir := guardDir(t, "")
		d := held(t, lazyRequest(t, dir, lazy))
		if b, _ := os.ReadFile(filepath.Join(dir, "descriptors")); strings.TrimSpace(string(b)) != want {
			t.Errorf("lazy %v: the runtime may open %s files, want %s", lazy, b, want)
		}
		d.Abort(NewFreezer(""), 10*time.Second)
		guardGone(t, dir)
	}
}

// bystander is a process that stands for a container's, in a directory that stands for its cgroup.
func bystander(t *testing.T) (state string, died func() error) {
	t.Helper()
	dir := t.TempDir()
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendln(nil, c.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	t.Cleanup(func() { _ = c.Process.Kill() })
	return filepath.Join(dir, "freezer.state"), func() error {
		select {
		case err := <-done:
			var ee *exec.ExitError
			if errors.As(err, &ee) && ee.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
				return nil
			}
			return fmt.Errorf("it ended with %w", err)
		case <-time.After(20 * time.Second):
			return errors.New("it lives")
		}
	}
}

// CRIU is refused, which makes the runtime fail, and that is no failure of the commit.
func TestLazyDumpCommits(t *testing.T) {
	dir := guardDir(t, "")
	state, died := bystander(t)
	d := held(t, lazyRequest(t, dir, true))
	if err := d.PointOfNoReturn(); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(t.Context(), NewFreezer(state)); err != nil {
		t.Fatal(err)
	}
	if err := died(); err != nil {
		t.Errorf("the container's process: %v", err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "verdict")); string(b) != "aborted\n" {
		t.Errorf("CRIU was told %q", b)
	}
	if b, _ := os.ReadFile(state); string(b) != "THAWED" {
		t.Errorf("the cgroup is %s", b)
	}
	d.Abort(NewFreezer(""), time.Second) // does nothing any more
	guardGone(t, dir)
}

// A guard that is gone cannot keep the tasks alive, nor leave CRIU behind.
func TestLazyDumpCommitsWithoutGuard(t *testing.T) {
	dir := guardDir(t, "")
	state, died := bystander(t)
	d := held(t, lazyRequest(t, dir, true))
	if err := d.guard.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range d.guard.exit { // until it is closed: the guard is gone
	}
	err := d.Commit(t.Context(), NewFreezer(state))
	if err == nil || !strings.Contains(err.Error(), "guard is gone") {
		t.Errorf("got %v", err)
	}
	if err := died(); err != nil {
		t.Errorf("the container's process: %v", err)
	}
	guardGone(t, dir)
}

func TestLazyLimit(t *testing.T) {
	for _, c := range []struct{ files, pipe, want int64 }{
		{20000, 1 << 20, 9488 << 20}, {1024, 1 << 20, 0}, {256, 1 << 20, 0}, {3024, 64 << 10, 1000 * 64 << 10}, {1 << 20, 1 << 20, 523776 << 20},
	} {
		if got := lazyLimit(c.files, c.pipe); got != c.want {
			t.Errorf("%d descriptors, pipes of %d: got %d, want %d", c.files, c.pipe, got, c.want)
		}
	}
	files, err := descriptorLimit()
	if err != nil {
		t.Fatal(err)
	}
	if got := referenceLimit(); got < 0 || got > files/pipeEnds*pipeSize || files > 2*criusOwnFiles && got == 0 {
		t.Errorf("%d bytes with %d descriptors", got, files)
	}
}

// A container of which a part cannot be looked into may have tasks there that live: it is not thawed.
func TestCommitOfWhatCannotBeListedStaysFrozen(t *testing.T) {
	for name, lazy := range map[string]bool{"lazy": true, "full": false} {
		t.Run(name, func(t *testing.T) {
			dir := guardDir(t, "")
			state, died := bystander(t)
			if err := os.WriteFile(state, []byte("FROZEN"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(filepath.Dir(state), "hidden"), 0o700); err != nil {
				t.Fatal(err)
			}
			d := held(t, lazyRequest(t, dir, lazy))
			if err := d.PointOfNoReturn(); err != nil {
				t.Fatal(err)
			}
			err := d.Commit(t.Context(), NewFreezer(state))
			if err == nil || !strings.Contains(err.Error(), "hidden") {
				t.Errorf("got %v", err)
			}
			if err := died(); err != nil {
				t.Errorf("a process that can be seen: %v", err)
			}
			if b, _ := os.ReadFile(state); string(b) != "FROZEN" {
				t.Errorf("the cgroup is %s", b)
			}
			guardGone(t, dir)
		})
	}
}
