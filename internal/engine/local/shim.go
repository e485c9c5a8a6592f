package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Shim is a container's, as containerd started it.
type Shim struct {
	Pid     int
	Address string // of the containerd that started it
}

// Shims finds those of a container by their command lines: containerd-shim-runc-v2 -namespace NS -id ID -address SOCKET
// (containerd, core/runtime/v2/shim.go).
func Shims(namespace, id string) ([]Shim, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, fmt.Errorf("look for a shim: %w", err)
	}
	var found []Shim
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		address, ok := shimFor(strings.Split(string(b), "\x00"), namespace, id)
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if ok && err == nil {
			found = append(found, Shim{pid, address})
		}
	}
	return found, nil
}

func shimFor(args []string, namespace, id string) (address string, ok bool) {
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return "", false
	}
	flags := map[string]string{}
	for i := 1; i+1 < len(args); i++ {
		flags[args[i]] = args[i+1]
	}
	// what containerd starts to clear away after a shim has the same flags, and a word behind them
	if slices.Contains(args[max(len(args)-2, 1):], "delete") {
		return "", false
	}
	return flags["-address"], flags["-namespace"] == namespace && flags["-id"] == id
}

// RemoveRestoreRoot takes away what runc leaves in a container's state directory when it is killed while CRIU restores: the root
// file system bound at criu-root (runc, libcontainer/criu_linux.go, Restore), which keeps the container's files busy.
func RemoveRestoreRoot(dir string) error {
	root := filepath.Join(dir, "criu-root")
	err := unix.Unmount(root, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount what a broken restore left at %s: %w", root, err)
	}
	for _, d := range []string{root, dir} {
		if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove what a broken restore left: %w", err)
		}
	}
	return nil
}
