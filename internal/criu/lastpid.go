package criu

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// PassPids has the processes that a restored container makes from now on get pids beyond those that its image set has, as they did where it
// comes from. CRIU gives every process its pid and leaves the namespace's count where a new one begins: a child would get a lower pid than its
// parent, or one that a process had a moment ago. CRIU itself would fall over that at the next dump: of a file that
// several processes share, it restores the one of the lowest pid, but an epoll instance by the descriptors of the process that comes first in
// the tree (criu/files.c, criu/eventpoll.c). A child that has another file under such a number, as that of a redis which saves itself,
// made the restore fail.
//
// The container is held. Nothing is done for one that has its processes among the host's.
func PassPids(init int, dir string) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", init))
	if err != nil {
		return fmt.Errorf("pass the pids of the container: %w", err)
	}
	defer ns.Close()
	if own, err := sameNamespace(ns, "/proc/self/ns/pid"); err != nil || own {
		return err
	}
	threads, err := livingThreads(dir)
	if err != nil {
		return err
	}
	last := uint32(0)
	for pid, tids := range threads {
		last = max(last, pid)
		for _, tid := range tids {
			last = max(last, tid)
		}
	}
	if out, err := inPids(ns, exec.Command("sh", "-c", fmt.Sprintf(passScript, last))); err != nil {
		return fmt.Errorf("pass the pids of the container: %w: %s", err, strings.TrimSpace(out))
	}
	return nil
}

// passScript runs in the namespace, whose count the file means, whichever /proc it is in. A shell would read it byte by byte, which such files
// do not allow.
const passScript = `f=/proc/sys/kernel/ns_last_pid; last=$(cat $f) && { [ "$last" -ge %[1]d ] || echo %[1]d >$f; }`

func sameNamespace(ns *os.File, path string) (bool, error) {
	var a, b unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &a); err != nil {
		return false, fmt.Errorf("look at a namespace: %w", err)
	}
	if err := unix.Stat(path, &b); err != nil {
		return false, fmt.Errorf("look at a namespace: %w", err)
	}
	return a.Dev == b.Dev && a.Ino == b.Ino, nil
}

// inPids runs a command as a process of a namespace of pids, and returns what it says.
func inPids(ns *os.File, cmd *exec.Cmd) (said string, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// the namespace is that of the thread's children; the thread ends with this function, for it is never unlocked
		runtime.LockOSThread()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWPID); err != nil {
			return
		}
		var out []byte
		out, err = cmd.CombinedOutput()
		said = string(out)
	}()
	<-done
	return said, err
}
