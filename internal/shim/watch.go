package shim

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// releasePatience is how long a restore that was let go may go on after its first process, CRIU or runc has ended. That one of them
// does is how a restore ends, too.
const releasePatience = 2 * time.Second

// watch ends the restore when a process dies that it needs, and returns when runc is done. cut is called when the restore was ended
// while it was held.
func (r *restore) watch(cut func() error) error {
	stopped, stop, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("watch the restore: %w", err)
	}
	defer stopped.Close()
	go func() {
		<-r.over
		stop.Close()
	}()
	awaitDeath(r.processes(), stopped)
	switch r.now() {
	case held:
		r.init.kill() // without CRIU it would run
		return cut()
	case released:
		if !r.isOver(releasePatience) {
			return r.killAll()
		}
	}
	return nil
}

// awaitDeath returns when one of the processes has ended, or when stop is at its end.
func awaitDeath(all []*process, stop *os.File) {
	fds := []unix.PollFd{{Fd: int32(stop.Fd()), Events: unix.POLLIN}}
	for _, p := range all {
		fds = append(fds, unix.PollFd{Fd: int32(p.fd), Events: unix.POLLIN})
	}
	for {
		if _, err := unix.Poll(fds, -1); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
