package criu

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestConfigKeepsTheHostsOptionsButNotOurs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	base := "# a comment\n\nskip-in-flight\n--action-script /evil\nnetwork-lock iptables\nlog-level 4\nghost-limit 1\n"
	if err := (Config{TCP: TCPEstablished, ActionScript: "/a/b c", Base: []byte(base)}).Write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "skip-in-flight\ntcp-established\nnetwork-lock skip\nfile-locks\nlink-remap\nghost-limit 268435456\naction-script \"/a/b c\"\n"
	if string(b) != want {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
}

func TestConfigOfLazyPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	const base = "ps-socket 3\naddress 0.0.0.0\nport=9\nlazy-pages\nwork-dir /elsewhere\n"
	const always = "tcp-established\nnetwork-lock skip\nfile-locks\nlink-remap\nghost-limit 268435456\naction-script \"/a\"\n"
	for want, c := range map[string]Config{
		"":                                    {},
		"lazy-pages\nwork-dir \"/run/a b\"\n": {LazyPages: true, WorkDir: "/run/a b"},
		"lazy-pages\nps-socket 2147483647\n":  {LazyPages: true, noServer: true},
	} {
		c.ActionScript, c.Base = "/a", []byte(base)
		if err := c.Write(path); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != always+want {
			t.Errorf("got %q, %v, want %q", b, err, always+want)
		}
	}
	for _, dir := range []string{"/a\"b", "/a\nb", `/a\b`} {
		if err := (Config{WorkDir: dir}).Write(path); err == nil {
			t.Errorf("took the work directory %q", dir)
		}
	}
}

func runScript(t *testing.T, h *Hook, action string) *exec.Cmd {
	t.Helper()
	c := exec.Command(h.Script())
	c.Env = append(os.Environ(), "CRTOOLS_SCRIPT_ACTION="+action, "CRTOOLS_INIT_PID=42")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHookHoldsUntilReleased(t *testing.T) {
	for _, ok := range []bool{true, false} {
		h, err := NewHook(t.TempDir(), ActionPostRestore)
		if err != nil {
			t.Fatal(err)
		}
		c := runScript(t, h, ActionPostRestore)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		ev, err := h.Wait(ctx, ActionPostRestore)
		if err != nil || ev.Pid != 42 {
			t.Fatalf("event %v, %v", ev, err)
		}
		if err := h.Release(ok); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); (err == nil) != ok {
			t.Errorf("released with %v: the script ended with %v", ok, err)
		}
		h.Close()
	}
}

func TestHookFailsWhenTheAgentGoes(t *testing.T) {
	h, err := NewHook(t.TempDir(), ActionPostDump)
	if err != nil {
		t.Fatal(err)
	}
	c := runScript(t, h, ActionPostDump)
	if _, err := h.Wait(context.Background(), ActionPostDump); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // until the script waits for its verdict
	h.Close()
	if err := c.Wait(); err == nil {
		t.Error("the script allowed CRIU to go on")
	}
}

func TestHookIgnoresOtherActions(t *testing.T) {
	h, err := NewHook(t.TempDir(), ActionPostDump)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for _, a := range []string{"network-lock", "pre-dump", "post-restore"} {
		if err := runScript(t, h, a).Wait(); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
}

func TestFirstCause(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dump.log")
	log := "(00.000100) Version: 4.2.1\n(00.0123) Warn  (criu/x.c:1): Error-ish\n" +
		"(00.020000) Error (criu/sk-inet.c:191): inet: Connected TCP socket, consider using --tcp-established option.\n" +
		"(00.021000) Error (criu/cr-dump.c:1743): Dump files (pid: 7) failed with -1\n"
	if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := FirstCause(path)
	if err != nil || !strings.HasPrefix(c.Text, "inet: Connected TCP socket") || c.Remedy == "" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestFilesRoundTrip(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for name, size := range map[string]int{"core-1.img": 10, "descriptors.json": 3, "inventory.img": 0, "mm-1.img": 70000, "pages-1.img": 5} {
		b := make([]byte, size)
		rand.Read(b)
		if err := os.WriteFile(filepath.Join(from, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var buf bytes.Buffer
	n, _, err := WriteFiles(&buf, from)
	if err != nil || n != 4 {
		t.Fatalf("%d files, %v", n, err)
	}
	stream := buf.Bytes()
	if n, err = ReadFiles(bytes.NewReader(stream), to, 1<<20); err != nil || n != 4 {
		t.Fatalf("%d files, %v", n, err)
	}
	a, _ := os.ReadFile(filepath.Join(from, "mm-1.img"))
	b, _ := os.ReadFile(filepath.Join(to, "mm-1.img"))
	if !bytes.Equal(a, b) {
		t.Error("contents differ")
	}
	for i := range stream {
		if _, err := ReadFiles(bytes.NewReader(stream[:i]), t.TempDir(), 1<<20); err == nil {
			t.Fatalf("a stream cut at %d of %d bytes was taken", i, len(stream))
		}
		if i == 200 {
			break
		}
	}
	if _, err := ReadFiles(io.MultiReader(bytes.NewReader(stream), strings.NewReader("x")), t.TempDir(), 1<<20); !errors.Is(err, ErrImageSet) {
		t.Errorf("trailing byte: %v", err)
	}
	if _, err := ReadFiles(bytes.NewReader(stream), t.TempDir(), 1000); !errors.Is(err, ErrImageSet) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestImageNames(t *testing.T) {
	for _, n := range []string{"", ".", "..", "../x", "a/b", "/a", ".hidden", "a\x00b", "a b", strings.Repeat("a", 200)} {
		if CheckImageName(n) == nil {
			t.Errorf("%q was taken", n)
		}
	}
	for _, n := range []string{"core-1.img", "descriptors.json", "ip6tables-9.img", "tmpfs-dev-71.tar.gz.img", "stats-dump"} {
		if err := CheckImageName(n); err != nil {
			t.Error(err)
		}
	}
}

type memPlacer struct {
	mu  *sync.Mutex
	out []byte
}

func (p memPlacer) Place(b []byte, off int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	copy(p.out[off:], b)
	return nil
}
func (memPlacer) Close() error { return nil }

func TestFollowGrowingFile(t *testing.T) {
	dir := t.TempDir()
	want := make([]byte, 5<<20+123)
	rand.Read(want)
	out := memPlacer{&sync.Mutex{}, make([]byte, len(want))}
	complete := make(chan struct{})
	go func() {
		f, _ := os.Create(filepath.Join(dir, "pages-1.img"))
		for i := 0; i < len(want); i += 100_000 {
			f.Write(want[i:min(i+100_000, len(want))])
			time.Sleep(200 * time.Microsecond)
		}
		f.Close()
		close(complete)
	}()
	files, err := Follow(context.Background(), dir, 3, complete, func(string) (Placer, error) { return out, nil })
	if err != nil || len(files) != 1 || files[0].Size != int64(len(want)) {
		t.Fatalf("%v, %v", files, err)
	}
	if !bytes.Equal(out.out, want) {
		t.Error("contents differ")
	}
}

func TestSharedPath(t *testing.T) {
	for line, want := range map[string]string{
		"7f00-7f01 rw-s 00000000 08:01 12   /var/lib/a b":          "var/lib/a b",
		"7f00-7f01 rw-s 00000000 08:01 12   /tmp/x (deleted)":      "tmp/x",
		"7f00-7f01 rw-p 00000000 08:01 12   /var/lib/private":      "",
		"7f00-7f01 r--s 00000000 08:01 12   /var/lib/readonly":     "",
		"7f00-7f01 rw-s 00000000 00:01 12   anon_inode:[io_uring]": "",
	} {
		if got, _ := sharedPath(line); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func TestStageIsMemoryAndGoes(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting a stage needs root")
	}
	base := t.TempDir()
	s, err := NewStage(base, "x", 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewStage(base, "x", 16<<20); err == nil {
		t.Error("a stage was made twice")
	}
	if n, err := CleanStages(base); n != 0 || err != nil {
		t.Errorf("a live stage was cleaned: %d, %v", n, err)
	}
	s.lock.Close() // as if this process had died
	s.lock = nil
	if n, err := CleanStages(base); n != 1 || err != nil {
		t.Errorf("a stale stage was not cleaned: %d, %v", n, err)
	}
	if left, _ := os.ReadDir(base); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestFreezerKillsFrozenTasks(t *testing.T) {
	dir, state := cgroupDir(t)
	c := exec.Command("sleep", "1000")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(c.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	f := NewFreezer(filepath.Join(dir, state))
	if err := f.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := f.KillAll(); err != nil {
		t.Fatal(err)
	}
	if err := f.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the task ended with %v", err)
	}
}
