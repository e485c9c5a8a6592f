package network

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"migrate/internal/thread"
)

// ownNetns names the namespace of the calling thread, which is not always that of the process.
const ownNetns = "/proc/thread-self/ns/net"

// Do runs fn on a thread inside a network namespace and returns fn's error. Sockets that fn opens stay in that
// namespace wherever they are used later; goroutines that fn starts do not run in it. The thread ends with fn.
func Do(netns string, fn func() error) error {
	return thread.Run(func() error {
		target, err := openNetns(netns)
		if err != nil {
			return err
		}
		defer target.Close()
		if err := enter(target); err != nil {
			return err
		}
		return fn()
	})
}

func openNetns(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

func enter(netns *os.File) error {
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns.Name(), err)
	}
	return nil
}
