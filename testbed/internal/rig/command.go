package rig

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"migrate/testbed"
)

// Run runs a command in a host and returns its standard output.
func Run(ctx context.Context, h *testbed.Host, argv ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := h.Command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), CommandError(ctx, h, argv, err, stderr.String()+stdout.String())
	}
	return stdout.String(), nil
}

// CommandError is what went wrong with a command that said something; after an interrupt, just that.
func CommandError(ctx context.Context, h *testbed.Host, argv []string, err error, said string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("host %s: %s: %w: %s", h.Name, strings.Join(argv[:min(len(argv), 2)], " "), err, strings.TrimSpace(said))
}

// Patience is how long anything may take that ends by itself; a machine may have much else to do.
const Patience = 90 * time.Second

// Eventually waits until is says so, or fails.
func Eventually(ctx context.Context, what string, is func() (bool, error)) error {
	const every = 5 * time.Millisecond
	for end := time.Now().Add(Patience); ; {
		if ok, err := is(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(every):
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %s", Patience, what)
		}
	}
}
