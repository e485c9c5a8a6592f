package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCgroupDirs(t *testing.T) {
	const mounts = "30 20 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
		"40 30 0:35 /hosts/a /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n" +
		"41 30 0:36 / /sys/fs/cgroup/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n"
	got := cgroupDirs("5:cpu,cpuacct:/docker/web\n3:freezer:/hosts/a/docker/web\n2:pids:/docker/web\n1:name=systemd:/elsewhere\n0::/system.slice/docker-web.scope\n", mounts, "web")
	want := []string{"/sys/fs/cgroup/cpu,cpuacct/docker/web", "/sys/fs/cgroup/freezer/docker/web", "/sys/fs/cgroup/unified/system.slice/docker-web.scope"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := cgroupDirs("0::/\n", mounts, "web"); got != nil {
		t.Errorf("of a process that is in none: %q", got)
	}
}

// TestRemoveResidue takes away what the next shim finds: processes that were noted, and mounts, of whose content nothing is lost.
func TestRemoveResidue(t *testing.T) {
	mine, other := startSleep(t), startSleep(t)
	otherNoted := other
	otherNoted.Start++ // the pid was another's when it was noted
	dir, rootfs := t.TempDir(), t.TempDir()
	writeFile(t, filepath.Join(rootfs, "file"), "")
	left := residue{Init: mine, CRIU: otherNoted, State: filepath.Join(dir, "state"), Work: filepath.Join(dir, "work"), Images: filepath.Join(dir, unpacked+"1")}
	if err := os.MkdirAll(left.Images, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(left.Images, "pages-1.img"), "")
	for _, at := range []string{filepath.Join(left.State, "criu-root"), filepath.Join(left.Work, ".criu.cgyard.x1")} {
		if err := os.MkdirAll(at, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(rootfs, at, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	if err := os.Mkdir(filepath.Join(dir, ownDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := left.write(dir); err != nil {
		t.Fatal(err)
	}
	noted, err := readResidue(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // it may be repeated
		if err := noted.remove(); err != nil {
			t.Fatal(err)
		}
	}
	if !dead(mine.Pid) || !runs(other.Pid) {
		t.Error("not the process that was noted was killed")
	}
	for _, at := range []string{filepath.Join(left.State, "criu-root"), filepath.Join(left.Work, ".criu.cgyard.x1"), left.Images} {
		if _, err := os.Stat(at); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", at, err)
		}
	}
	if _, err := os.Stat(filepath.Join(rootfs, "file")); err != nil {
		t.Error(err)
	}
}

func startSleep(t *testing.T) identity {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	id, parent, err := identify(cmd.Process.Pid)
	if err != nil || parent != os.Getpid() {
		t.Fatalf("%+v, parent %d, %v", id, parent, err)
	}
	return id
}
