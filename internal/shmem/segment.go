package shmem

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

// OpenSegment opens a segment of System V shared memory that no process has attached, by its identifier in the IPC namespace of a process of
// this host. For a moment it is attached here, which its owner could notice: the container is to stand still. The caller closes it.
func OpenSegment(pid int, id uint64) (*Object, error) {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/ipc", pid))
	if err != nil {
		return nil, fmt.Errorf("open the IPC namespace of process %d: %w", pid, err)
	}
	defer ns.Close()
	var f *os.File
	if err := thread.Run(func() (err error) {
		f, err = attached(int(ns.Fd()), int(id))
		return err
	}); err != nil {
		return nil, fmt.Errorf("open segment %d of shared memory: %w", id, err)
	}
	return &Object{ID: id, file: f}, nil
}

// attached moves the calling thread to an IPC namespace and opens a segment there.
func attached(ns, id int) (f *os.File, err error) {
	if err := unix.Setns(ns, unix.CLONE_NEWIPC); err != nil {
		return nil, fmt.Errorf("enter the IPC namespace: %w", err)
	}
	data, err := unix.SysvShmAttach(id, 0, unix.SHM_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("attach: %w", err)
	}
	defer func() { err = errors.Join(err, unix.SysvShmDetach(data)) }()
	m, err := mappingAt(os.Getpid(), addressOf(data))
	if err != nil {
		return nil, err
	}
	return os.Open(m.path(os.Getpid()))
}
