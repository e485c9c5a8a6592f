package shim

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// identity tells a process from others that have its pid later.
type identity struct {
	Pid   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// Fields of /proc/PID/stat, counted from what follows the name in parentheses, which may hold anything (proc(5)).
const (
	fieldParent = 1
	fieldStart  = 19
)

// identify reads when a process began, and its parent.
func identify(pid int) (id identity, parent int, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return id, 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(fields) <= fieldStart {
		return id, 0, fmt.Errorf("look at process %d: its stat is cut off", pid)
	}
	id.Pid = pid
	if parent, err = strconv.Atoi(string(fields[fieldParent])); err == nil {
		id.Start, err = strconv.ParseUint(string(fields[fieldStart]), 10, 64)
	}
	if err != nil {
		return id, 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return id, parent, nil
}

// process is a hold on a process: what is done to it is done to no other.
type process struct {
	identity
	fd int // pidfd
}

// openProcess takes hold of a process, and says who its parent is.
func openProcess(pid int) (p *process, parent int, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("take hold of process %d: %w", pid, err)
	}
	id, parent, err := identify(pid)
	if err != nil {
		unix.Close(fd)
		return nil, 0, err
	}
	return &process{id, fd}, parent, nil
}

// find takes hold of a process that was noted; nil if it is gone. Without a start it is whoever has the pid.
func (id identity) find() (*process, error) {
	if id.Pid == 0 {
		return nil, nil
	}
	p, _, err := openProcess(id.Pid)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if id.Start != 0 && p.identity != id {
		p.close()
		return nil, nil
	}
	return p, nil
}

// kill is for a nil process, too, as the rest.
func (p *process) kill() {
	if p != nil {
		_ = unix.PidfdSendSignal(p.fd, unix.SIGKILL, nil, 0) // it may have ended
	}
}

func (p *process) close() {
	if p != nil {
		unix.Close(p.fd)
	}
}

// await says whether the process ends in time.
func (p *process) await(limit time.Duration) bool {
	if p == nil {
		return true
	}
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.fd), Events: unix.POLLIN}}, max(0, int(time.Until(end).Milliseconds())))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}
