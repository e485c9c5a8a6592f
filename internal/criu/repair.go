package criu

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// RepairOff takes every TCP socket of the processes out of repair mode, into which CRIU puts them while it dumps. A CRIU
// that was killed leaves them there, and a socket in repair mode refuses to read, to write, and to say goodbye: the
// connection would be lost to both ends without a word. The processes should be frozen and their network locked.
//
// Processes that end meanwhile are none of its business.
func RepairOff(pids []int) error {
	var errs []error
	for _, pid := range pids {
		if err := repairOff(pid); err != nil && !gone(err) {
			errs = append(errs, fmt.Errorf("sockets of process %d: %w", pid, err))
		}
	}
	return errors.Join(errs...)
}

func gone(err error) bool { return errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) }

func repairOff(pid int) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		link, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || !strings.HasPrefix(link, "socket:") {
			continue
		}
		fd, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		errs = append(errs, leaveRepair(pidfd, fd))
	}
	return errors.Join(errs...)
}

// leaveRepair works on a copy of the descriptor, which means the same socket.
func leaveRepair(pidfd, fd int) error {
	sk, err := unix.PidfdGetfd(pidfd, fd, 0)
	if errors.Is(err, unix.EBADF) {
		return nil
	} else if err != nil {
		return fmt.Errorf("get descriptor %d: %w", fd, err)
	}
	defer unix.Close(sk)
	if proto, err := unix.GetsockoptInt(sk, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || proto != unix.IPPROTO_TCP {
		return nil
	}
	on, err := unix.GetsockoptInt(sk, unix.IPPROTO_TCP, unix.TCP_REPAIR)
	if err != nil || on != unix.TCP_REPAIR_ON {
		return nil // listening sockets cannot be asked and are never in it
	}
	// without a window probe: the network is locked, and the peer's next word brings everything up to date
	if err := unix.SetsockoptInt(sk, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_OFF_NO_WP); err != nil {
		return fmt.Errorf("take descriptor %d out of repair mode: %w", fd, err)
	}
	return nil
}
