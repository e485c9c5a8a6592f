package child

import (
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// StartSwitch starts the process that holds the switch's network namespace.
func StartSwitch(cgroup string) (pid int, err error) {
	cmd, err := command(roleSwitch, cgroup)
	if err != nil {
		return 0, err
	}
	statusOut, statusIn, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("start the switch: %w", err)
	}
	defer statusOut.Close()
	cmd.Stdout = statusIn
	cmd.SysProcAttr = detached(unix.CLONE_NEWNET)
	err = start(cmd)
	_ = statusIn.Close()
	if err != nil {
		return 0, fmt.Errorf("start the switch: %w", err)
	}
	if status, err := io.ReadAll(statusOut); err != nil || string(status) != statusOK {
		return 0, fmt.Errorf("start the switch: it ended early")
	}
	return cmd.Process.Pid, nil
}

// holdSwitch is the role. The switch forwards frames; it has no addresses and
// must not answer for anybody.
func holdSwitch([]string) (int, error) {
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	for _, which := range []string{"all", "default"} {
		path := "/proc/sys/net/ipv6/conf/" + which + "/disable_ipv6"
		if err := os.WriteFile(path, []byte("1"), 0); err != nil && !os.IsNotExist(err) {
			return exitFailure, fmt.Errorf("switch off IPv6 in the switch: %w", err)
		}
	}
	if _, err := os.Stdout.WriteString(statusOK); err != nil {
		return exitFailure, err
	}
	if err := os.Stdout.Close(); err != nil {
		return exitFailure, err
	}
	for {
		if err := unix.Pause(); err != nil && err != unix.EINTR {
			return exitFailure, err
		}
	}
}
