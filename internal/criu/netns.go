package criu

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ExternalNetNS is the value of CRIU's option external by which a dump leaves the network namespace at path to others, and a
// restore takes the one that runc gives it (runc, libcontainer/criu_linux.go, criuNsToKey). runc says so itself of a namespace that
// it was given by path.
func ExternalNetNS(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("look at network namespace %s: %w", path, err)
	}
	return fmt.Sprintf("net[%d]:extRootNetNS", st.Ino), nil
}

// showNetNS puts a network namespace where the runtime was given it once, and will look for it. Nothing is made there on the host but the
// directory.
func showNetNS(netns, at string) error {
	dir := filepath.Dir(at)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("show network namespace: %w", err)
	}
	if err := unix.Mount("migrate", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16k"); err != nil {
		return fmt.Errorf("mount over %s: %w", dir, err)
	}
	if err := os.WriteFile(at, nil, 0o444); err != nil {
		return fmt.Errorf("show network namespace: %w", err)
	}
	if err := unix.Mount(netns, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("show network namespace %s at %s: %w", netns, at, err)
	}
	return nil
}
