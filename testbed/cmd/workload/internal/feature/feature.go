// Package feature has programs that each live on one feature of the kernel, check it at every step, and notice when a
// migration loses, repeats or changes anything of it.
//
// A step finds what the step before left under way (a message in a queue, a signal pending, a descriptor in flight), checks
// it, and leaves something under way for the next one. So whenever a program is frozen, there is something to lose.
package feature

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Options say what to do.
type Options struct {
	Kind  string
	Dir   string        // for files
	Count int           // of processes, files or threads; 0: the kind's own
	MiB   int           // of files; 0: the kind's own
	Every time.Duration // time between steps
	Out   io.Writer     // gets "tick N TIME" for every step that was right
}

// A machine uses a feature.
type machine interface {
	// step is the nth, from 1. An error tells that something was lost, repeated or changed.
	step(n uint64) error
}

// A kind makes machines.
type kind struct {
	name  string
	about string
	make  func(Options) (machine, error)
}

var kinds = []kind{
	{"timerfd", "periodic and absolute timerfds", newTimerfd},
	{"posixtimer", "POSIX timers that queue signals with values", newPosixTimer},
	{"epoll", "eventfd, timerfd and signalfd behind one epoll, events pending", newEpoll},
	{"sysv", "System V shared memory, semaphores and messages between two processes", newSysV},
	{"posixshm", "POSIX shared memory and a futex in it between two processes", newPosixShm},
	{"memfd", "a sealed memfd, mapped twice", newMemfd},
	{"locks", "flock, POSIX and OFD locks against another process", newLocks},
	{"scm", "unix socket pairs with descriptors in flight", newSCM},
	{"deleted", "an open file that is deleted", newDeleted},
	{"family", "zombies, and an orphan that writes to a pipe", newFamily},
	{"processes", "a chain of many processes and pipes", newChain},
	{"files", "many open files, each with its own offset", newFiles},
	{"threads", "many threads that pass a token on", newThreads},
	{"pty", "a pseudo-terminal with a program on it", newPTY},
	{"inotify", "watches of a directory and a file", newInotify},
	{"fanotify", "a mark on a directory", newFanotify},
}

// Help lists the kinds with what they are.
func Help() string {
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, "%-12s %s\n", k.name, k.about)
	}
	return b.String()
}

// ErrDamage is returned when something is not as it must be.
var ErrDamage = errors.New("something was lost, repeated or changed")

// Run steps until ctx ends. It holds its thread: signals and locks belong to threads.
func Run(ctx context.Context, o Options) error {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == o.Kind })
	if i < 0 {
		return fmt.Errorf("kind %q: known are\n%s", o.Kind, Help())
	}
	runtime.LockOSThread()
	m, err := kinds[i].make(o)
	if err != nil {
		return fmt.Errorf("set %s up: %w", o.Kind, err)
	}
	for n := uint64(1); ctx.Err() == nil; n++ {
		if err := m.step(n); err != nil {
			return fmt.Errorf("step %d of %s: %w", n, o.Kind, err)
		}
		if _, err := fmt.Fprintf(o.Out, "tick %d %s\n", n, time.Now().UTC().Format("15:04:05.000")); err != nil {
			return err
		}
		time.Sleep(o.Every)
	}
	return nil
}

// damage is an error that wraps ErrDamage.
func damage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamage, fmt.Sprintf(format, args...))
}

// or is n, or other if n is 0.
func or(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

// create writes a new file and leaves it open.
func create(path string, content []byte) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
