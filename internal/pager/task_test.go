package pager

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/uffd"
)

// A restored task is a process whose memory, a window of pages at a fixed address, is watched by a userfaultfd, as CRIU leaves it.
// It keeps a model of what each page must hold, touches and changes the window, and compares. Forked children go on with copies of
// window and model.
//
// The code between fork and exit runs in a copy of a process of which only one thread is left. So it neither allocates nor grows
// its stack, which the compiler ensures by nosplit.

// taskJob is what a task is told.
type taskJob struct {
	VPID    int
	Pages   int
	Mode    string // one of sweep, churn, forks, halves
	Seed    uint64
	Threads int
	Steps   int
	Split   bool // the window consists of several mappings
}

// windowBase is where nothing else is mapped, neither by the runtime nor by the race detector.
func windowBase(vpid int) uint64 { return 0x20_0000_0000 + uint64(vpid)<<32 }

// seedOf tells what a page holds at the beginning: 0, zeros; else see word.
func seedOf(vpid, page int) uint64 {
	switch page % 16 {
	case 3, 7, 8:
		return 0
	case 11:
		return 1<<40 + uint64(page%3)
	}
	return 1<<63 | uint64(vpid)<<32 | uint64(page)
}

// unmapped is the seed of a page that is not there.
const unmapped = ^uint64(0)

// word is the i-th word of the page with that seed.
//
//go:nosplit
func word(seed uint64, i uint64) uint64 {
	if seed == 0 {
		return 0
	}
	return (seed^i)*0x9e3779b97f4a7c15 | 1
}

// area is a part of the window with its model. It belongs to one thread.
type area struct {
	base  uintptr
	pages uint64
	seeds [1 << 20]uint64
	tags  [1 << 20]uint32 // the operation that made the mapping: pages with the same tag, side by side, are of one mapping
	tag   uint32
	rng   uint64
	kids  uint64
	depth uint64
}

//go:nosplit
func (a *area) random(n uint64) uint64 {
	a.rng ^= a.rng << 13
	a.rng ^= a.rng >> 7
	a.rng ^= a.rng << 17
	return (a.rng >> 11) % n
}

//go:nosplit
func (a *area) at(page uint64) uintptr { return a.base + uintptr(page*pageSize) }

// lastWords is what a task says when it finds something wrong: what kind of thing, and numbers.
var lastWords [72]byte

//go:nosplit
//go:norace
func die(kind byte, v1, v2, v3, v4 uint64) {
	v := [4]uint64{v1, v2, v3, v4}
	lastWords[0] = kind
	for i := range v {
		lastWords[1+17*i] = ' '
		for j := range 16 {
			lastWords[2+17*i+j] = "0123456789abcdef"[v[i]>>(60-4*j)&15]
		}
	}
	lastWords[69] = '\n'
	_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, 2, uintptr(unsafe.Pointer(&lastWords)), 70)
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 3, 0, 0)
	}
}

// check compares a page with the model.
//
//go:nosplit
//go:norace
//go:nocheckptr
func (a *area) check(page uint64) {
	seed := a.seeds[page]
	if seed == unmapped {
		return
	}
	addr := a.at(page)
	p := *(**[pageSize / 8]uint64)(unsafe.Pointer(&addr))
	for i := range uint64(pageSize / 8) {
		if got := p[i]; got != word(seed, i) {
			die('W', uint64(addr)+8*i, got, word(seed, i), a.depth)
		}
	}
}

//go:nosplit
//go:norace
func (a *area) checkAll() {
	for page := range a.pages {
		a.check(page)
	}
}

//go:nosplit
//go:norace
//go:nocheckptr
func (a *area) write(page uint64) {
	if a.seeds[page] == unmapped {
		return
	}
	seed := a.random(1<<40) | 1<<41
	a.seeds[page] = seed
	addr := a.at(page)
	p := *(**[pageSize / 8]uint64)(unsafe.Pointer(&addr))
	for i := range uint64(pageSize / 8) {
		p[i] = word(seed, i)
	}
}

//go:nosplit
//go:norace
func (a *area) set(page, n, seed uint64) {
	a.tag++
	for i := page; i < page+n; i++ {
		a.seeds[i], a.tags[i] = seed, a.tag
	}
}

// call fails the task if the system call does.
//
//go:nosplit
//go:norace
func call(nr, a1, a2, a3, a4, a5 uintptr) uintptr {
	r, _, errno := syscall.RawSyscall6(nr, a1, a2, a3, a4, a5, 0)
	if errno != 0 {
		die('S', uint64(nr), uint64(errno), uint64(a1), uint64(a2))
	}
	return r
}

// oneMapping tells whether n pages are mapped, by one operation.
//
//go:nosplit
//go:norace
func (a *area) oneMapping(page, n uint64) bool {
	for i := page; i < page+n; i++ {
		if a.seeds[i] == unmapped || a.tags[i] != a.tags[page] {
			return false
		}
	}
	return true
}

//go:nosplit
//go:norace
func (a *area) free(page, n uint64) bool {
	for i := page; i < page+n; i++ {
		if a.seeds[i] != unmapped {
			return false
		}
	}
	return true
}

const anonymous = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_FIXED

// step does something at random.
//
//go:nosplit
//go:norace
func (a *area) step() {
	n := 1 + a.random(12)
	page := a.random(a.pages - 2*n)
	size := uintptr(n * pageSize)
	switch a.random(16) {
	case 0:
		call(unix.SYS_MUNMAP, a.at(page), size, 0, 0, 0)
		a.set(page, n, unmapped)
	case 1:
		// without a descriptor: -1
		if _, _, errno := syscall.RawSyscall6(unix.SYS_MMAP, a.at(page), size, unix.PROT_READ|unix.PROT_WRITE, anonymous, ^uintptr(0), 0); errno != 0 {
			die('M', uint64(errno), 0, 0, 0)
		}
		a.set(page, n, 0)
	case 2, 3:
		a.remap(page, n)
	case 4:
		if a.oneMapping(page, n) {
			call(unix.SYS_MADVISE, a.at(page), size, unix.MADV_DONTNEED, 0, 0)
			for i := page; i < page+n; i++ {
				a.seeds[i] = 0
			}
		}
	case 5:
		a.resize(page, n)
	case 6, 7, 8:
		a.write(page)
	default:
		for i := page; i < page+n; i++ {
			a.check(i)
		}
	}
}

// remap moves pages, and sometimes leaves an empty mapping behind.
//
//go:nosplit
//go:norace
func (a *area) remap(page, n uint64) {
	to := a.random(a.pages - n)
	if to+n > page && page+n > to || !a.oneMapping(page, n) {
		return
	}
	size := uintptr(n * pageSize)
	flags := uintptr(unix.MREMAP_MAYMOVE | unix.MREMAP_FIXED)
	stay := a.random(4) == 0
	if stay {
		flags |= unix.MREMAP_DONTUNMAP
	}
	call(unix.SYS_MREMAP, a.at(page), size, size, flags, a.at(to))
	a.tag++
	for i := range n {
		a.seeds[to+i], a.tags[to+i] = a.seeds[page+i], a.tag
	}
	if stay {
		for i := range n {
			a.seeds[page+i] = 0
		}
	} else {
		a.set(page, n, unmapped)
	}
}

// resize cuts a mapping's end off and lets it grow in place again, so that what was there must not come back.
//
//go:nosplit
//go:norace
func (a *area) resize(page, n uint64) {
	if !a.oneMapping(page, n+1) {
		return
	}
	call(unix.SYS_MREMAP, a.at(page), uintptr((n+1)*pageSize), pageSize, 0, 0)
	a.set(page+1, n, unmapped)
	if a.random(2) == 0 && a.free(page+1, n) {
		call(unix.SYS_MREMAP, a.at(page), pageSize, uintptr((n+1)*pageSize), 0, 0)
		a.set(page+1, n, 0)
	}
}

// fork makes a child that changes something, forks twice in turn unless it is generations down, and compares everything.
//
//go:nosplit
//go:norace
func (a *area) fork(steps, generations uint64) {
	if call(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0) != 0 {
		a.kids++
		return
	}
child:
	for {
		a.kids = 0
		a.depth++
		a.rng += 0x1234567 * a.depth
		for range steps {
			a.step()
		}
		for i := 0; i < 2 && a.depth < generations; i++ {
			if call(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0) == 0 {
				continue child
			}
			a.kids++
		}
		a.checkAll()
		a.reap()
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
}

// reap waits for this thread's children.
//
//go:nosplit
//go:norace
func (a *area) reap() {
	for ; a.kids > 0; a.kids-- {
		var status uint32
		// __WNOTHREAD: other threads have children of their own
		call(unix.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&status)), 0x20000000, 0, 0)
		if status != 0 {
			die('K', uint64(status), 0, 0, a.depth)
		}
	}
}

// newArea makes the model of pages first to first+n of a task's window, in memory that a fork copies.
func newArea(job taskJob, first, n int) *area {
	b, err := unix.Mmap(-1, 0, int(unsafe.Sizeof(area{})), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		panic(err)
	}
	a := (*area)(unsafe.Pointer(&b[0]))
	a.base, a.pages = uintptr(windowBase(job.VPID))+uintptr(first)*pageSize, uint64(n)
	a.rng = job.Seed*0x9e3779b97f4a7c15 + uint64(first) + 1
	for i := range n {
		a.seeds[i] = seedOf(job.VPID, first+i)
	}
	return a
}

// taskMain is a restored task.
func taskMain(arg string) int {
	debug.SetGCPercent(-1) // a thread that waits for a page cannot be stopped
	if err := runTask(arg); err != nil {
		fmt.Fprintln(os.Stderr, "task:", err)
		return 2
	}
	return 0
}

func runTask(arg string) error {
	var job taskJob
	if err := json.Unmarshal([]byte(arg), &job); err != nil {
		return err
	}
	control, err := net.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	if err := watchedWindow(job, control.(*net.UnixConn)); err != nil {
		return err
	}
	if _, err := control.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait to be resumed: %w", err)
	}
	threads := max(job.Threads, 1)
	each := job.Pages / threads
	if job.Mode == "halves" {
		return runHalves(job, control)
	}
	var wg sync.WaitGroup
	for i := range threads {
		a := newArea(job, i*each, each)
		wg.Go(func() {
			runtime.LockOSThread()
			runThread(job, a)
		})
	}
	wg.Wait()
	return nil
}

func runThread(job taskJob, a *area) {
	switch job.Mode {
	case "sweep":
		for range job.Steps {
			a.check(a.random(a.pages))
		}
	case "churn":
		for range job.Steps {
			a.step()
		}
	case "forks":
		for i := range job.Steps {
			a.step()
			if i%(job.Steps/8+1) == 0 {
				a.fork(10, 2)
			}
		}
	}
	a.checkAll()
	a.reap()
}

// runHalves looks at one half, says so, and goes on when it is told to.
func runHalves(job taskJob, control net.Conn) error {
	a := newArea(job, 0, job.Pages)
	for page := range a.pages / 2 {
		a.check(page)
	}
	if _, err := control.Write([]byte{1}); err != nil {
		return err
	}
	if _, err := control.Read(make([]byte, 1)); err != nil {
		return err
	}
	a.checkAll()
	return nil
}

const criuFeatures = uffd.FeatureEventFork | uffd.FeatureEventRemap | uffd.FeatureEventRemove | uffd.FeatureEventUnmap

// watchedWindow maps the window, has it watched, and gives the descriptor away.
func watchedWindow(job taskJob, control *net.UnixConn) error {
	base, size := windowBase(job.VPID), uint64(job.Pages)*pageSize
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, uintptr(base), uintptr(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE|unix.MAP_NORESERVE, ^uintptr(0), 0)
	if errno != 0 {
		return fmt.Errorf("map the window: %w", errno)
	}
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", errno)
	}
	defer unix.Close(int(fd))
	err := errors.Join(uffd.API(int(fd), criuFeatures), uffd.Register(int(fd), base, base+size, uffd.ModeMissing))
	for off := uint64(0); job.Split && err == nil && off < size; off += 20 * pageSize {
		if _, _, errno := unix.Syscall(unix.SYS_MPROTECT, uintptr(base+off), 7*pageSize, unix.PROT_READ); errno != 0 {
			err = errno
		}
	}
	if err != nil {
		return fmt.Errorf("watch the window: %w", err)
	}
	_, _, err = control.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(fd)), nil)
	return err
}
