package criu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A lazy dump leaves memory that may come later in the tasks: CRIU takes references to its pages, into pipes, and writes
// down only where they are. At the post-dump hold the tasks are as they are in any other dump, CRIU's code gone from
// their memory (criu/cr-dump.c, compel_cure_remote in dump_one_task), so that whatever ends CRIU from there on leaves them whole.
// Their pages are read from outside while they are held.
//
// After the hook CRIU would serve the pages: it would listen on a port until somebody connects, and take whoever hangs up
// again, a port scanner for one, for a restore that has got all pages, whereupon the tasks' fate would be decided
// (criu/page-xfer.c, cr_page_server). Nobody shall ask for those pages, so there is to be no port and no wait. The option
// ps-socket makes CRIU use a connection that it was given in place of listening, and it is given a number that can be
// no descriptor: reading fails at once with EBADF, and CRIU undoes the dump as after any other failure. The hook remains
// the only gate, and since the dump is never CRIU's to complete, there is no verdict that makes CRIU end the tasks: commitLazy
// does it.

// noSocket is larger than any descriptor's number can be (fs/file.c, sysctl_nr_open_max).
const noSocket = math.MaxInt32

// commitLazy, which also serves dumps with a claimed parent, kills the tasks before CRIU lets them go, since it lets them go to run, and has CRIU and the runtime end.
// They end with an error always, which says nothing.
func (d *Dump) commitLazy(ctx context.Context, f *Freezer) error {
	// A task that got SIGKILL dies of it in the freezer, under CRIU's ptrace or when it leaves them, whichever is last, and
	// without running anything before. No task is new, because all that could fork stands still.
	err := f.KillAll()
	// refused, so that CRIU also takes back what it put beside the files
	failed := errors.Join(err, d.hook.Release(false))
	select {
	case _, ok := <-d.guard.exit:
		if !ok { // the guard died, and left runtime and CRIU
			d.guard.kill()
			failed = errors.Join(failed, errors.New("end the dump: its guard is gone"))
		}
	case <-ctx.Done():
		d.guard.kill()
		failed = errors.Join(failed, fmt.Errorf("end the dump: %w", context.Cause(ctx)))
	}
	d.guard.control.Close() // it knows since PointOfNoReturn that the container is none of its business
	if err != nil {
		return failed // what could not be killed stays frozen
	}
	// not earlier: at its end CRIU puts the freezer back to how it found it
	return errors.Join(failed, f.Thaw())
}

const (
	pipeSize      = 1 << 20 // bytes of memory for which a pipe has room without CAP_SYS_RESOURCE (fs.pipe-max-size)
	pipeEnds      = 2       // descriptors
	criusOwnFiles = 1024    // descriptors that CRIU needs for all else: images, namespaces, the tasks' own, pipes that are half full
	capResource   = 24      // CAP_SYS_RESOURCE, see capabilities(7)
)

// LazyLimit is how many bytes of private memory a container may have for a lazy dump: CRIU holds references to all of it in
// pipes. The dump of a larger one fails, and the container goes on: make a full dump instead. It is 0 where it cannot be
// found out, and there is none where a parent can be claimed, see claim.go. Call Warm before.
func LazyLimit() int64 {
	if kdat, err := os.ReadFile(kdatPath); err == nil {
		if _, err := forgeTracking(kdat); err == nil {
			return math.MaxInt64
		}
	}
	return referenceLimit()
}

// referenceLimit is LazyLimit without a claim.
func referenceLimit() int64 {
	files, err := descriptorLimit()
	if err != nil {
		return 0
	}
	pipe, err := pipeLimit()
	if err != nil {
		return 0
	}
	return lazyLimit(files, pipe)
}

// lazyLimit is LazyLimit with so many descriptors and so many bytes a pipe.
func lazyLimit(files, pipe int64) int64 { return max(files-criusOwnFiles, 0) / pipeEnds * pipe }

// descriptorLimit is how many descriptors CRIU can have: it raises its limit as far as it may (criu/util.c,
// rlimit_unlimit_nofile), and the guard before it.
func descriptorLimit() (int64, error) {
	if privileged() {
		return sysctl("fs/nr_open")
	}
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	return int64(min(r.Max, math.MaxInt32)), nil
}

// pipeLimit is how many bytes of memory one pipe can refer to, not counting that a privileged CRIU makes larger ones.
func pipeLimit() (int64, error) {
	if privileged() {
		return pipeSize, nil
	}
	most, err := sysctl("fs/pipe-max-size")
	return min(most, pipeSize), err
}

// privileged says whether this process, and so CRIU, may raise its own limits.
func privileged() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&head, &data[0]) == nil && data[0].Effective&(1<<capResource) != 0
}

func sysctl(name string) (int64, error) {
	b, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return 0, fmt.Errorf("read a kernel setting: %w", err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read the kernel setting %s: %w", name, err)
	}
	return n, nil
}

// raiseDescriptors gives this process, and those that it starts from now on, as many descriptors as are allowed. Go raises
// its own limit but hands down the one that it found, unless it is set by syscall.Setrlimit.
func raiseDescriptors() error {
	files, err := descriptorLimit()
	if err != nil {
		return err
	}
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	n := uint64(files)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: max(n, r.Max)}); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", n, err)
	}
	return nil
}
