package network

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ownNetns names the namespace of the calling thread, which is not always that of the process.
const ownNetns = "/proc/thread-self/ns/net"

// errNotReturned is what Do reports of a function that ended its goroutine.
var errNotReturned = errors.New("function ended its goroutine without returning")

// Do runs fn on a thread inside a network namespace and returns fn's error. Sockets that fn opens stay in that
// namespace wherever they are used later; goroutines that fn starts do not run in it. The thread comes back: one that ended
// would take along the programs that were started from it to die with their parent (PR_SET_PDEATHSIG, which means the thread).
func Do(netns string, fn func() error) error {
	target, err := openNetns(netns)
	if err != nil {
		return err
	}
	defer target.Close()
	result := errNotReturned
	done := make(chan struct{})
	go func() {
		defer close(done)
		result = doOnThread(target, fn)
	}()
	<-done
	return result
}

// doOnThread must run on a goroutine of its own: where the thread cannot be put back, the goroutine ends while locked
// to it and the runtime destroys the thread.
func doOnThread(target *os.File, fn func() error) error {
	runtime.LockOSThread()
	own, err := openNetns(ownNetns)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer own.Close()
	if err := enter(target); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		if enter(own) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return fn()
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
