package drain

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileID is a file, whatever path leads to it.
type fileID struct {
	dev, ino uint64
}

func idOf(fd int) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fileID{}, err
	}
	return fileID{uint64(st.Dev), st.Ino}, nil
}

func idAt(path string) (fileID, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fileID{}, err
	}
	return fileID{uint64(st.Dev), st.Ino}, nil
}

// ends says how a process has a file open.
type ends struct{ reads, writes bool }

// use says what others than this process do with a file: whether one of them reads and does not write, and whether one writes.
type use struct{ read, written bool }

// usersOf looks at all processes. Those that end meanwhile do nothing any more.
func usersOf(files map[fileID]bool) (map[fileID]use, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	found := map[fileID]use{}
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		for id, e := range endsOf(pid, files) {
			u := found[id]
			u.read = u.read || e.reads && !e.writes
			u.written = u.written || e.writes
			found[id] = u
		}
	}
	return found, nil
}

// endsOf lists how one process has the files open.
func endsOf(pid int, files map[fileID]bool) map[fileID]ends {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		return nil // it has ended
	}
	found := map[fileID]ends{}
	for _, fd := range fds {
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, fd.Name()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFIFO {
			continue
		}
		id := fileID{uint64(st.Dev), st.Ino}
		if !files[id] {
			continue
		}
		e := found[id]
		switch mode, ok := accessMode(pid, fd.Name()); {
		case !ok:
		case mode == unix.O_WRONLY:
			e.writes = true
		case mode == unix.O_RDWR:
			e.reads, e.writes = true, true
		default:
			e.reads = true
		}
		found[id] = e
	}
	return found
}

// accessMode of a descriptor, as /proc/PID/fdinfo has its flags, in octal (proc_pid_fdinfo(5)). A descriptor with O_PATH is
// open for neither, and is not ok.
func accessMode(pid int, fd string) (mode int, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd))
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(b) {
		value, is := bytes.CutPrefix(line, []byte("flags:"))
		if !is {
			continue
		}
		flags, err := strconv.ParseInt(strings.TrimSpace(string(value)), 8, 64)
		return int(flags) & unix.O_ACCMODE, err == nil && flags&unix.O_PATH == 0
	}
	return 0, false
}
