// Package thread runs functions on threads that nothing else ever uses: for what cannot be undone on a thread, such as entering
// a namespace, or must end with it, such as tracing.
//
// Programs that die with the thread that started them (PR_SET_PDEATHSIG) and this package do not go together: a thread that ends
// here may be one that was used before.
package thread

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrNotReturned is what Run reports of a function that ended its goroutine.
var ErrNotReturned = errors.New("function ended its goroutine without returning")

// Run runs f on a thread of its own, which ends with it, and returns f's error. Goroutines that f starts run elsewhere.
func Run(f func() error) error {
	err := ErrNotReturned
	done := make(chan struct{})
	Start(func() {
		defer close(done)
		err = f()
	})
	<-done
	return err
}

// Start is Run for a function that nobody waits for.
func Start(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f() // a goroutine that ends locked takes its thread with it
			return
		}
		// The main thread cannot end: the runtime would keep it as f left it, and /proc/self would show that thread's namespaces for
		// ever. While it is locked here, the next goroutine runs elsewhere.
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		Start(func() {
			defer close(done)
			f()
		})
		<-done
	}()
}
