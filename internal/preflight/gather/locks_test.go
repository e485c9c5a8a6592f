package gather

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/preflight"
)

func TestParsePOSIXLocks(t *testing.T) {
	locks := parsePOSIXLocks("1: POSIX  ADVISORY  READ 7 00:7b:99 128 128\n2: POSIX  ADVISORY  WRITE 7 fe:00:98 0 EOF\n2: -> POSIX  ADVISORY  WRITE 8 fe:00:98 0 EOF\n" +
		"3: FLOCK  ADVISORY  WRITE 9 fe:00:97 0 EOF\n4: OFDLCK ADVISORY  WRITE -1 fe:00:96 0 EOF\n5: POSIX\n")
	if got := fmt.Sprint(locks); got != "map[7:[{00:7b 99} {fe:00 98}]]" {
		t.Errorf("got %s", got)
	}
}

func TestMappedOf(t *testing.T) {
	maps := "7f00-7f01 rw-s 00000000 00:7b 99    /data/a b\n7f01-7f02 rw-s 00001000 00:7b 99    /data/a b\n7f02-7f03 r-xp 00000000 fe:00 99    /usr/lib/x.so\n7f03-7f04 rw-p 00000000 00:00 0 \n"
	if got := mappedOf(maps, []lockedFile{{"00:7b", "99"}, {"00:00", "0"}}); !slices.Equal(got, []string{"/data/a b"}) {
		t.Errorf("got %q", got)
	}
}

// TestFindMappedLocks looks at this process itself.
func TestFindMappedLocks(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "locked"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		t.Fatal(err)
	}
	locked := func() []string {
		c := &preflight.Container{Procs: []*preflight.Process{{Pid: os.Getpid()}}}
		if err := findMappedLocks(c); err != nil {
			t.Fatal(err)
		}
		return c.Procs[0].Locked
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Start: 1, Len: 1}); err != nil {
		t.Fatal(err)
	}
	if got := locked(); len(got) != 0 {
		t.Errorf("a file that is not mapped: %q", got)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(m) }()
	if got := locked(); !slices.Equal(got, []string{f.Name()}) {
		t.Errorf("got %q", got)
	}
}
