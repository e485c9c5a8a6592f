package track

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { programs["mapper"] = mapperProgram }

// Places of the mapper: a page with a counter for each thread, and memory that it maps when it is told to.
const (
	countersAt = 0x6100_0000_0000
	newAt      = 0x6200_0000_0000
	movedAt    = 0x6300_0000_0000
	newSize    = 8 * PageSize

	busyThreads = 3
)

// mapperProgram has threads that map and unmap without end, and one that sleeps until it is told what to do: n, nothing; m, map;
// v, move. All calls are raw, since a thread that is stopped may hold a lock of Go's runtime.
func mapperProgram() {
	mmap(countersAt, PageSize, readWrite, anonymous|unix.MAP_FIXED, -1)
	for i := range uintptr(busyThreads) {
		go func() {
			runtime.LockOSThread()
			for n := uint64(1); ; n++ {
				at := rawCall(unix.SYS_MMAP, 0, newSize, readWrite, anonymous, ^uintptr(0))
				rawCall(unix.SYS_MUNMAP, at, newSize, 0, 0, 0)
				poke(countersAt+8+8*i, n)
			}
		}()
	}
	fmt.Println("ready")
	var order [2]byte
	buf := uintptr(unsafe.Pointer(&order))
	for n := uint64(1); rawCall(unix.SYS_READ, 0, buf, 2, 0, 0) == 2; n++ {
		switch order[0] {
		case 'm':
			rawCall(unix.SYS_MMAP, newAt, newSize, readWrite, anonymous|unix.MAP_FIXED, ^uintptr(0))
			for at := uintptr(newAt); at < newAt+newSize; at += PageSize {
				poke(at, 1)
			}
		case 'v':
			if rawCall(unix.SYS_MREMAP, newAt, newSize, newSize, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, movedAt) != movedAt {
				order[0] = '!'
			}
		}
		poke(countersAt, n)
		rawCall(unix.SYS_WRITE, 1, buf, 2, 0, 0)
	}
}

func rawCall(nr, a, b, c, d, e uintptr) uintptr {
	r, _, _ := unix.RawSyscall6(nr, a, b, c, d, e, 0)
	return r
}

// counters reads how far the mapper's threads have come; the first one is that which it is told.
func (c *child) counters() (n [1 + busyThreads]uint64) {
	c.t.Helper()
	b := make([]byte, PageSize)
	if _, err := (Reader{c.pid()}).Read([]Range{{countersAt, countersAt + PageSize}}, b); err != nil {
		c.t.Fatal(err)
	}
	for i := range n {
		n[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return n
}

func (c *child) do(what string) {
	c.t.Helper()
	c.say(what)
	if l := c.line(); l != what {
		c.t.Fatalf("%s: %q", what, l)
	}
}

// No thread does anything while the mappings are held, and all go on after.
func TestNothingRunsWhileMappingsAreHeld(t *testing.T) {
	c := start(t, "mapper", "GOMAXPROCS=8")
	for range 20 {
		before := c.counters()
		for now := before; now[1] == before[1] || now[2] == before[2] || now[3] == before[3]; now = c.counters() {
			runtime.Gosched() // until all of them run again
		}
		held := 0
		err := holdMappings(c.pid(), func() error {
			held++
			at := c.counters()
			for range 1000 {
				if now := c.counters(); now != at {
					return fmt.Errorf("from %v to %v", at, now)
				}
			}
			return nil
		})
		if errors.Is(err, errBusy) {
			continue // a machine with much else to do
		}
		if err != nil || held == 0 {
			t.Fatalf("held %d times, %v", held, err)
		}
	}
}

// A thread that wakes up while the mappings are held is stopped as well.
func TestAThreadThatWakesUpIsHeldToo(t *testing.T) {
	c := start(t, "mapper", "GOMAXPROCS=8")
	for asleep := false; !asleep; runtime.Gosched() { // in read(2) of its standard input
		files, _ := filepath.Glob(procPath(c.pid(), "task/*/syscall"))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			asleep = asleep || strings.HasPrefix(string(b), "0 0x0 ")
		}
	}
	calls := 0
	var last [1 + busyThreads]uint64
	err := holdMappings(c.pid(), func() error {
		if calls++; calls == 1 {
			c.do("n")
		}
		last = c.counters()
		for range 1000 {
			if now := c.counters(); calls > 1 && now != last {
				return fmt.Errorf("from %v to %v", last, now)
			}
		}
		return nil
	})
	if err != nil || calls < 2 || last[0] != 1 {
		t.Errorf("held %d times, at %v: %v", calls, last, err)
	}
}

func TestNoCallNoticesThatMappingsAreHeld(t *testing.T) {
	undisturbed(t, func(c *child, _ []int) error {
		for range 300 {
			if err := holdMappings(c.pid(), func() error { return nil }); err != nil && !errors.Is(err, errBusy) {
				return err
			}
		}
		return nil
	})
}

func TestHoldOfAProcessThatIsGone(t *testing.T) {
	c := start(t, "mapper", "GOMAXPROCS=8")
	_ = unix.Kill(c.pid(), unix.SIGKILL)
	_ = c.cmd.Wait()
	if err := holdMappings(c.pid(), func() error { return nil }); !errors.Is(err, ErrGone) {
		t.Errorf("got %v", err)
	}
}

// A list of mappings is old by the time it is used. That a mapping has grown since must not divide it: the program could not move
// it any more.
func TestAGrownMappingIsWatchedAsAWhole(t *testing.T) {
	c := start(t, "mapper", "GOMAXPROCS=8")
	tr := open(t, WP, c.pids).(*tracker)
	defer tr.Close()
	if _, err := tr.Scan(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.do("m")
	old := space{private: []vma{{Range{newAt + PageSize, newAt + 3*PageSize}, true}, {Range{newAt + 5*PageSize, newAt + 6*PageSize}, true}}}
	for range 1000 { // as often as the machine is too busy
		pages, _, err := tr.get(c.pid()).method.scan(context.Background(), old)
		if err != nil {
			t.Fatal(err)
		}
		if len(pages) == 1 && pages[0] == (Range{newAt, newAt + newSize}) {
			break
		}
	}
	c.do("v")
}
