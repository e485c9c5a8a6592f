package layers_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/layers"
)

// mountOverlay mounts lower and upper at a new directory, or skips the test.
func mountOverlay(t *testing.T, lower, upper string) string {
	t.Helper()
	base := filepath.Dir(upper)
	work, merged := filepath.Join(base, "work"), filepath.Join(base, "merged")
	for _, d := range []string{work, merged} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	o := "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work + ",redirect_dir=on,metacopy=on"
	if err := unix.Mount("overlay", merged, "overlay", 0, o); err != nil {
		t.Skipf("cannot mount overlay on %s (needs root and a file system that can be an upper): %v", base, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(merged, unix.MNT_DETACH) })
	return merged
}

// TestRealOverlay changes a tree through a mounted overlay, carries the upper
// directory while it is mounted, and mounts the copy over the same lower.
func TestRealOverlay(t *testing.T) {
	p := newPair(t)
	lower := t.TempDir()
	sh(t, lower, `
		mkdir -p keep gone/sub replaced moved/deep linked
		for d in keep gone gone/sub replaced moved moved/deep linked; do for i in 1 2 3; do echo $d$i > $d/$i; done; done
		ln linked/1 linked/alias
		ln -s ../keep/1 moved/symlink
		dd if=/dev/urandom of=big bs=1M count=3 2>/dev/null
		chmod 4755 keep/3`)
	merged := mountOverlay(t, lower, p.src)
	sh(t, merged, `echo first > new; echo more >> keep/1; rm gone/1`)
	p.round(layers.Options{})
	p.mustBeEqual()
	sh(t, merged, `
		rm -r gone; rm -r replaced; mkdir replaced; echo opaque > replaced/only
		mv moved elsewhere; echo in >> elsewhere/deep/1; mv keep/2 keep/two
		chmod 600 big; chown 12:34 keep/3; ln new new.link; echo x >> linked/1
		mkfifo pipe; mkdir empty; touch "odd
name"`)
	p.round(layers.Options{})
	p.mustBeEqual()
	sh(t, merged, `echo back > gone; rm new; echo y >> elsewhere/symlink; rm -r empty; mv big bigger`)
	p.round(layers.Options{Final: true})
	p.mustBeEqual()
	want := t.TempDir()
	sh(t, merged, `cp -a . `+want)
	if err := unix.Unmount(merged, 0); err != nil {
		t.Fatal(err)
	}
	copied := mountOverlay(t, lower, p.dst)
	got := t.TempDir()
	sh(t, copied, `cp -a . `+got)
	if d := diff(t, want, got); d != "" {
		t.Errorf("merged trees differ:\n%s", d)
	}
}

func sh(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.TrimSpace(script), err, out)
	}
}

// TestMappedStore changes a file through a shared mapping that has been dirty
// since before the round, which leaves the ctime alone.
func TestMappedStore(t *testing.T) {
	p := newPair(t)
	if name := fsName(t, p.src); name == "tmpfs" {
		t.Skip("tmpfs does not stamp stores through mappings; Recheck covers it")
	}
	path := filepath.Join(p.src, "mapped")
	if err := os.WriteFile(path, make([]byte, 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, 256<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(m)
	m[100] = 1 // dirties the page before the first round
	o := layers.Options{Racy: -1}
	p.round(o)
	m[100] = 2 // would go unseen without the write-out in readContent
	p.round(o)
	p.mustBeEqual()
	m[70000] = 3
	p.round(layers.Options{Final: true, Racy: -1, Recheck: []string{"mapped"}})
	p.mustBeEqual()
}

func fsName(t *testing.T, dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if st.Type == unix.TMPFS_MAGIC {
		return "tmpfs"
	}
	return ""
}

// TestRecheck changes content behind the index's back: equal times, another byte.
func TestRecheck(t *testing.T) {
	p := newPair(t)
	path := filepath.Join(p.src, "f")
	if err := os.WriteFile(path, bytes.Repeat([]byte("a"), 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	p.round(layers.Options{Racy: -1})
	_, s, err := layers.WriteDelta(context.Background(), &bytes.Buffer{}, p.src, p.index, layers.Options{Final: true, Racy: -1, Recheck: []string{"/f", "none"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.BlocksSame != 4 || s.Bytes != 0 || s.Entries != 0 {
		t.Errorf("unchanged file on Recheck: %+v", s)
	}
}

// TestConcurrentWriter changes the tree while rounds run.
func TestConcurrentWriter(t *testing.T) {
	p := newPair(t)
	m := populated(t, p.src, 200, 5)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := m.Mutate(1); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 8 {
		p.round(layers.Options{MoveThreshold: 4096})
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	p.round(layers.Options{Final: true})
	p.mustBeEqual()
}
