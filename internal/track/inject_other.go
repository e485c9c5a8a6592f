//go:build !amd64

package track

import (
	"context"
	"errors"
)

// canInject says why a userfaultfd cannot be put into processes.
func canInject() error {
	return errors.New("putting a userfaultfd into a process is only known for amd64")
}

// oldCalls are system calls that only old architectures have.
var oldCalls []int

func injectUserfaultfd(context.Context, int, Range, func() []int) (int, error) {
	return -1, canInject()
}

func holdMappings(int, func() error) error { return canInject() }
