package child

import (
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// initialise is the role of a host's first process: it tells that the host is
// ready and then reaps whatever is orphaned, until it is killed.
func initialise([]string) (int, error) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, unix.SIGCHLD)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	status := os.NewFile(statusFD, "status")
	if _, err := io.WriteString(status, statusOK); err != nil {
		return exitFailure, fmt.Errorf("report that the host is up: %w", err)
	}
	if err := status.Close(); err != nil {
		return exitFailure, err
	}
	for {
		reap()
		<-children
	}
}

func reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
	}
}
