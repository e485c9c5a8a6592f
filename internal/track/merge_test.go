package track

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func init() { programs["merge"] = mergeProgram }

// mergeAt is where there is nothing else.
const (
	mergeAt    = 0x6000_0001_0000
	mergePages = 4
)

// mergeProgram has a mapping that it writes to, and one that it does not, and moves that beside the first one.
func mergeProgram() {
	runtime.LockOSThread()
	const size, away = mergePages * PageSize, 64 * PageSize
	for _, at := range []uintptr{mergeAt, mergeAt + away} {
		if _, err := unix.MmapPtr(-1, 0, pointer(at), size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE); err != nil {
			fmt.Println(err)
			return
		}
	}
	write := func(page uintptr, b byte) { *(*byte)(pointer(mergeAt + page*PageSize)) = b }
	for i := range uintptr(mergePages) {
		write(i, 1)
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for n := byte(2); in.Scan(); n++ {
		if in.Text() == "move" {
			if _, err := unix.MremapPtr(pointer(mergeAt+away), size, pointer(mergeAt+size), size, unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED); err != nil {
				fmt.Println(err)
				return
			}
		}
		write(1, n)
		fmt.Println("done")
	}
}

func pointer(at uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&at)) }

// When two mappings become one by a move, the kernel may stop to watch both and leave the marks of their pages: what is written
// then, and after, is found all the same.
func TestWritesAfterMappingsAreMerged(t *testing.T) {
	c := start(t, "merge")
	tr, err := Open(t.Context(), Options{Kind: WP, Pids: func() ([]int, error) { return []int{c.pid()}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	found := func() bool {
		t.Helper()
		procs, err := tr.Scan(t.Context())
		if err != nil || len(procs) != 1 {
			t.Fatal(procs, err)
		}
		const page = mergeAt + PageSize
		return slices.ContainsFunc(procs[0].Pages, func(r Range) bool { return r.Start <= page && page < r.End })
	}
	for i, step := range []string{"write", "write", "move", "write", "write"} {
		found() // whatever there was before
		c.say(step)
		if l := c.line(); l != "done" {
			t.Fatalf("step %d: %q", i+1, l)
		}
		if !found() {
			t.Errorf("step %d, %s: the page that was written is not found", i+1, step)
		}
	}
}
