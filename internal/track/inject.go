package track

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A userfaultfd stands for the memory of the process that creates it, so the process has to do that itself: one of its threads
// is stopped by ptrace, runs userfaultfd(2) and close(2) in our name and goes on as if nothing had been, all within some hundred
// microseconds. We take the descriptor over with pidfd_getfd(2) before it is closed.
//
// What must not be noticed by the program, and how:
//
//   - System calls that were blocking are restarted by the kernel when the thread goes on, with few exceptions that
//     fail with EINTR after any stop (signal(7)). For these the result is replaced by the kernel's own "restart if no handler runs".
//     A timeout then starts anew, so threads that are in none of them are taken first.
//   - Signals that were under way when the thread stopped are delivered before anything else; those that come later wait, because all
//     are blocked. The mask that is put back is the thread's own, not the temporary one of a call like ppoll, which sets its own
//     again as it restarts.
//   - A thread inside a restartable sequence (rseq(2)) is left alone: it would not learn that it has been interrupted.
//   - A process that is stopped by SIGSTOP or stops meanwhile is stopped afterwards as well.
//   - Seccomp is suspended during the calls. Where that is not allowed a process with seccomp is not touched: its filter
//     might kill it.
//
// What remains: should the agent be killed between the first changed register and the last one put back, the thread goes on with
// the wrong ones, and the program most likely crashes. PTRACE_O_EXITKILL would make that certain and is not used. So this is done once
// per process and program, not once per scan. Another thread that forks right then gives the child a copy of the descriptor; it is
// closed there when the child is taken in.

// errStay is what makes it pointless to try the process again.
var errStay = errors.New("cannot be tracked by write protection")

// errBusy means that no thread stops for now.
var errBusy = errors.New("no thread can be stopped now")

// Ranks of threads for being stopped, best first.
const (
	rankBlocked = iota // in a system call that restarts by itself
	rankRunning
	rankDelicate // in a system call that a stop ends
	rankNever
)

// pickThread returns the thread of a process that notices least.
func pickThread(pid int) (int, error) {
	tasks, err := os.ReadDir(procPath(pid, "task"))
	if err != nil {
		return 0, gone(pid, fmt.Errorf("list threads of process %d: %w", pid, err))
	}
	best, rank := 0, rankNever
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if r := rankOf(pid, tid); r < rank {
			best, rank = tid, r
		}
		if rank == rankBlocked {
			break
		}
	}
	if rank == rankNever {
		return 0, fmt.Errorf("process %d: %w: all are frozen, traced or wait for a device", pid, errBusy)
	}
	return best, nil
}

func rankOf(pid, tid int) int {
	dir := procPath(pid, "task/"+strconv.Itoa(tid)+"/")
	s, err := readStatFile(dir + "stat")
	if err != nil {
		return rankNever
	}
	switch s.state {
	case 'R', 'T':
		return rankRunning
	case 'S':
	default: // D: does not stop, be it frozen, waiting for a device or for the child of vfork; t: traced
		return rankNever
	}
	b, err := os.ReadFile(dir + "syscall")
	if err != nil {
		return rankDelicate
	}
	word, _, _ := bytes.Cut(b, []byte{' '})
	nr, err := strconv.Atoi(string(word))
	switch {
	case err != nil || nr < 0: // "running" by now, or in no system call
		return rankRunning
	case endedByStop(nr):
		return rankDelicate
	}
	return rankBlocked
}

// endedByStop tells the system calls which fail with EINTR when the thread was stopped, though no signal handler has run. All of
// these have done nothing when they fail so, and can be called again.
func endedByStop(nr int) bool { return slices.Contains(interruptible, nr) }

// interruptible are, beside those that always do, calls that do so on a socket with a timeout.
var interruptible = append(oldCalls,
	unix.SYS_EPOLL_PWAIT, unix.SYS_EPOLL_PWAIT2,
	unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_SEMOP, unix.SYS_SEMTIMEDOP, unix.SYS_IO_GETEVENTS, unix.SYS_IO_PGETEVENTS,
	unix.SYS_READ, unix.SYS_READV, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_RECVMMSG, unix.SYS_ACCEPT, unix.SYS_ACCEPT4,
	unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_SENDMMSG, unix.SYS_CONNECT,
)

// userfaultfds lists the descriptors of a process that are userfaultfds.
func userfaultfds(pid int) []int {
	dir := procPath(pid, "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var fds []int
	for _, e := range entries {
		to, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || !strings.HasPrefix(to, userfaultfdLink) {
			continue
		}
		if fd, err := strconv.Atoi(e.Name()); err == nil {
			fds = append(fds, fd)
		}
	}
	return fds
}

// userfaultfdLink is what /proc/PID/fd shows for a userfaultfd.
const userfaultfdLink = "anon_inode:[userfaultfd]"

// seccompOf tells whether system calls of a thread are filtered.
func seccompOf(tid int) bool {
	b, err := os.ReadFile(procPath(tid, "status"))
	return err != nil || !bytes.Contains(b, []byte("\nSeccomp:\t0\n"))
}
