package hold

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sleep is the kind that holds nothing; the processes that others start hold it.
const Sleep = "sleep"

func init() {
	kinds[Sleep] = func(string) (Held, error) { return Held{FD: -1}, nil }
	kinds["zombie"] = zombie
	kinds["stopped"] = stopped
	kinds["traced"] = traced
	kinds["vfork"] = vfork
	for name, flag := range map[string]uintptr{
		"pidns": unix.CLONE_NEWPID, "netns": unix.CLONE_NEWNET, "mntns": unix.CLONE_NEWNS, "utsns": unix.CLONE_NEWUTS,
		"ipcns": unix.CLONE_NEWIPC, "userns": 0, "timens": unix.CLONE_NEWTIME,
	} {
		kinds[name] = func(dir string) (Held, error) { return nested(dir, flag) }
	}
	kinds["seccomp-notify"] = func(string) (Held, error) { return seccompNotify() }
	kinds["shm"] = shm
	kinds["sem"] = func(string) (Held, error) { return ipc(unix.SYS_SEMGET, 0, 1, unix.IPC_CREAT|0o600) }
	kinds["msg"] = func(string) (Held, error) { return ipc(unix.SYS_MSGGET, 0, unix.IPC_CREAT|0o600) }
	kinds["hugetlb"] = hugetlb
	kinds["locked-memory"] = lockedMemory
}

// again is this program, holding something else below dir.
func again(kind, dir string) *exec.Cmd {
	c := exec.Command("/proc/self/exe", "hold", "--kind", kind, "--dir", dir)
	c.Stderr = os.Stderr
	return c
}

func child(c *exec.Cmd) (Held, error) {
	out, err := c.StdoutPipe()
	if err != nil {
		return Held{}, err
	}
	if err := c.Start(); err != nil {
		return Held{}, err
	}
	// it says that it is there
	_, err = out.Read(make([]byte, 1))
	return Held{FD: -1, Pid: c.Process.Pid, Keep: c}, err
}

func zombie(string) (Held, error) {
	c := exec.Command("/proc/self/exe", "--help")
	if err := c.Start(); err != nil {
		return Held{}, err
	}
	// waited for without being reaped
	var info [128]byte
	_, err := call(unix.SYS_WAITID, unix.P_PID, uintptr(c.Process.Pid), uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, 0)
	return Held{FD: -1, Pid: c.Process.Pid, Keep: c}, err
}

func stopped(dir string) (Held, error) {
	h, err := child(again(Sleep, dir))
	if err != nil {
		return Held{}, err
	}
	return h, unix.Kill(h.Pid, unix.SIGSTOP)
}

// traced is a child that this process traces, as a debugger does.
func traced(dir string) (Held, error) {
	h, err := child(again(Sleep, dir))
	if err != nil {
		return Held{}, err
	}
	failed := make(chan error)
	go func() {
		runtime.LockOSThread() // the tracer is a thread, and ends with it
		_, err := call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(h.Pid), 0, 0)
		failed <- err
		select {}
	}()
	return h, <-failed
}

// vfork is a thread that waits in the kernel for a child that neither ends nor runs another program. The child's only
// instruction after the call is pause(2), in a loop: it shares the parent's stack.
func vfork(string) (Held, error) {
	started := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(started)
		vforkAndPause()
	}()
	<-started
	return Held{FD: -1}, nil
}

// nested is a child in namespaces of its own; a user namespace is what lets it have the others.
func nested(dir string, flags uintptr) (Held, error) {
	c := again(Sleep, dir)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | flags,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if os.Getenv("HOLD_PRIVILEGED") != "" && flags != 0 {
		c.SysProcAttr.Cloneflags, c.SysProcAttr.UidMappings, c.SysProcAttr.GidMappings = flags, nil, nil
	}
	return child(c)
}

// seccompNotify gives one thread a filter that reports a system call, which nobody makes, to the descriptor that is held.
func seccompNotify() (Held, error) {
	got := make(chan Held)
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		fd, err := notifyFilter()
		if err != nil {
			failed <- err
			return
		}
		got <- Held{FD: fd}
		select {}
	}()
	select {
	case h := <-got:
		return h, nil
	case err := <-failed:
		return Held{}, err
	}
}

func notifyFilter() (int, error) {
	const loadNr, jumpEqual, ret = 0x20, 0x15, 0x06
	filter := []unix.SockFilter{
		{Code: loadNr}, {Code: jumpEqual, Jf: 1, K: unix.SYS_SWAPOFF},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF}, {Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	return call(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
}

func shm(string) (Held, error) {
	id, err := unix.SysvShmGet(0x68656c64, 1<<20, unix.IPC_CREAT|0o600)
	if err != nil {
		return Held{}, err
	}
	mem, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return Held{}, err
	}
	copy(mem, "held")
	return Held{FD: -1, Keep: mem}, nil
}

func ipc(nr uintptr, args ...uintptr) (Held, error) {
	_, err := call(nr, args...)
	return Held{FD: -1}, err
}

func hugetlb(string) (Held, error) {
	mem, err := unix.Mmap(-1, 0, 2<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_HUGETLB)
	if err != nil {
		return Held{}, fmt.Errorf("map a huge page: %w", err)
	}
	mem[0] = 1
	return Held{FD: -1, Keep: mem}, nil
}

func lockedMemory(string) (Held, error) {
	mem, err := unix.Mmap(-1, 0, 64<<10, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return Held{}, err
	}
	return Held{FD: -1, Keep: mem}, unix.Mlock(mem)
}
