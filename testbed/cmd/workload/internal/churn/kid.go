package churn

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A kid is a forked child: a process that has a copy of all memory, copy-on-write, and has not executed a program of its own.
//
// Go's runtime doesn't survive a fork, since none of its other threads are there. But a child that never enters the runtime
// can go on: all that it calls is marked nosplit, so that nothing looks at the stack's bound, which is where the runtime
// gets hold of a thread; it allocates nothing, makes system calls raw, has all signals blocked, and keeps what it needs in a
// mapping. The marks norace keep the race detector, which is runtime too, out of it.
type kid struct {
	board *board // shared with the parent
	index uint64 // of its seat
	role  role
	random
	acts   uint64 // after which it ends; 0: never
	pause  unix.Timespec
	depth  uint64         // of grandchildren to be forked
	status int32          // of a grandchild
	from   unsafe.Pointer // scratch page

	fields  [2]field // copy-on-write, its own after the fork
	common  [2]common
	commons uint64
}

// A role is what a kid does.
type role uint64

const (
	witness role = iota // look at everything, write a little, fork a child that does the same, look again, end
	settler             // write and look at random, until told to end
	partner             // write pages of memory that is shared, and look at the others'
)

// seats are as many kids as can be alive at once.
const seats = 32

// A board is a shared mapping by which the parent and its kids talk.
type board struct {
	request atomic.Uint64 // the number of the last request to look at everything
	seats   [seats]seat
}

type seat struct {
	pid    atomic.Uint64 // 0: free
	answer atomic.Uint64 // the last request that was answered
	pages  atomic.Uint64 // that were looked at for it
	acts   atomic.Uint64

	// of the first page that was wrong
	wrong  atomic.Uint64 // 0: none; else 1 + the number of the field
	page   atomic.Uint64
	gen    atomic.Uint64
	offset atomic.Uint64
	found  atomic.Uint64
}

func newBoard() (*board, error) {
	at, err := mapWith(int(unsafe.Sizeof(board{})+pageSize-1)/pageSize, readWrite, unix.MAP_SHARED)
	return (*board)(at), err
}

// newKid makes a kid that has not been forked yet.
func newKid() (*kid, error) {
	at, err := mapPages(2)
	if err != nil {
		return nil, err
	}
	if unsafe.Sizeof(kid{}) > pageSize {
		return nil, errors.New("a kid does not fit a page")
	}
	k := (*kid)(at)
	k.from = pageAt(at, 1)
	return k, nil
}

// spawn forks the kid. The caller is locked to its thread.
func (k *kid) spawn() error {
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return fmt.Errorf("block signals: %w", err)
	}
	pid, errno := k.fork()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return fmt.Errorf("unblock signals: %w", err)
	}
	if errno != 0 {
		return fmt.Errorf("fork: %w", errno)
	}
	k.seat().pid.Store(uint64(pid))
	return nil
}

// fork forks, and in the child does not return.
//
//go:nosplit
//go:norace
//go:noinline
func (k *kid) fork() (uintptr, syscall.Errno) {
	parent, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	pid, errno := clone()
	if pid == 0 && errno == 0 {
		k.live(parent)
	}
	return pid, errno
}

// clone is fork(2).
//
//go:nosplit
//go:norace
func clone() (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	return pid, errno
}

// live is the life of a kid.
//
//go:nosplit
//go:norace
func (k *kid) live(parent uintptr) {
	// ends with its parent, where no pid namespace does that for it; that may have been before this
	syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	if now, _, _ := syscall.RawSyscall(unix.SYS_GETPPID, 0, 0, 0); now != parent {
		exit(0)
	}
	switch k.role {
	case witness:
		k.witness()
	default:
		k.settle()
	}
	exit(0)
}

//go:nosplit
//go:norace
func exit(code uintptr) {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, code, 0, 0)
	}
}

//go:nosplit
//go:norace
func (k *kid) seat() *seat { return &k.board.seats[k.index] }

// witnessWrites is how many pages of each field a witness writes.
const witnessWrites = 24

// witness goes round once more in every descendant.
//
//go:nosplit
//go:norace
func (k *kid) witness() {
	for {
		k.lookAll()
		for i := 0; i < witnessWrites; i++ {
			k.writeOwn()
			k.sleep()
		}
		if k.depth == 0 {
			break
		}
		k.depth--
		pid, errno := clone()
		if errno != 0 {
			break // too many processes, perhaps; the parent meets that too
		}
		if pid > 0 {
			k.await(pid)
			break
		}
	}
	k.lookAll()
}

// await waits for a descendant, and ends like it if it complained.
//
//go:nosplit
//go:norace
func (k *kid) await(pid uintptr) {
	for {
		_, _, errno := syscall.RawSyscall6(unix.SYS_WAIT4, pid, uintptr(unsafe.Pointer(&k.status)), 0, 0, 0, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EINTR {
			exit(2)
		}
	}
	if k.status != 0 {
		exit(1)
	}
}

//go:nosplit
//go:norace
func (k *kid) settle() {
	for n := uint64(0); k.acts == 0 || n < k.acts; n++ {
		if k.role == partner {
			k.share()
		} else {
			k.writeOwn()
		}
		k.seat().acts.Add(1)
		if asked := k.board.request.Load(); asked != k.seat().answer.Load() {
			k.seat().pages.Store(k.lookAll())
			k.seat().answer.Store(asked)
		}
		k.sleep()
	}
}

//go:nosplit
//go:norace
func (k *kid) sleep() {
	syscall.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&k.pause)), 0, 0)
}

// writeOwn looks at a page and writes another one.
//
//go:nosplit
//go:norace
func (k *kid) writeOwn() {
	for n := 0; n < len(k.fields); n++ {
		f := &k.fields[n]
		if f.pages == 0 {
			continue
		}
		k.look(n, int(k.below(uint64(f.pages))))
		i := int(k.below(uint64(f.pages)))
		k.look(n, i)
		f.write(i)
	}
}

// lookAll looks at everything and returns how many pages that is.
//
//go:nosplit
//go:norace
func (k *kid) lookAll() uint64 {
	var pages uint64
	for n := 0; n < len(k.fields); n++ {
		for i := 0; i < k.fields[n].pages; i++ {
			k.look(n, i)
		}
		pages += uint64(k.fields[n].pages)
	}
	for n := uint64(0); n < k.commons; n++ {
		for i := uint64(0); i < k.common[n].pages; i++ {
			k.lookCommon(n, i)
		}
		pages += k.common[n].pages
	}
	return pages
}

//go:nosplit
//go:norace
func (k *kid) look(n, i int) {
	f := &k.fields[n]
	if at := f.wrong(i); at >= 0 {
		k.complain(uint64(n), uint64(i), *f.gen(i), uint64(at), *wordAt(f.page(i), uint64(at)))
	}
}

// complain writes on the board what is wrong, and ends.
//
//go:nosplit
//go:norace
func (k *kid) complain(n, page, gen, at, found uint64) {
	s := k.seat()
	if s.wrong.CompareAndSwap(0, n+1) {
		s.page.Store(page)
		s.gen.Store(gen)
		s.offset.Store(8 * at)
		s.found.Store(found)
	}
	exit(1)
}

// complaint is what a kid that ended with a status left on its seat.
func (k *kid) complaint(status unix.WaitStatus) *Damage {
	s := k.seat()
	if status.Exited() && status.ExitStatus() == 0 {
		return nil
	}
	what := fmt.Sprintf("child %d (%s) ended: %s", s.pid.Load(), k.role, describe(status))
	if s.wrong.Load() == 0 {
		return &Damage{What: what}
	}
	return &Damage{
		What: fmt.Sprintf("%s: its memory %d", what, s.wrong.Load()-1), ID: s.page.Load(), Gen: s.gen.Load(),
		Offset: int(s.offset.Load()), Found: fmt.Sprintf("%#016x", s.found.Load()),
	}
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal " + status.Signal().String()
	}
	return fmt.Sprintf("status %d", status.ExitStatus())
}

func (r role) String() string { return [...]string{"witness", "settler", "partner"}[r] }

// patience is how long kids may take to look at everything, on a machine that does much else.
const patience = time.Minute
