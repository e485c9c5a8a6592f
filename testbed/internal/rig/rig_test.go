package rig

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	var said Tail
	for range 100 {
		if n, err := said.Write([]byte(strings.Repeat("x", 99) + "\n")); n != 100 || err != nil {
			t.Fatal(n, err)
		}
	}
	if text := said.Take(); len(text) != tailSize || said.Take() != "" {
		t.Errorf("%d bytes are kept", len(text))
	}
}

func TestExitCode(t *testing.T) {
	over, end := context.WithCancel(t.Context())
	end()
	for _, c := range []struct {
		name string
		ctx  context.Context
		err  error
		code int
		says string
	}{
		{"all is well", t.Context(), nil, 0, ""},
		{"a failure", t.Context(), errors.New("no such thing"), 1, "prog: no such thing\n"},
		{"a failure after a signal", over, errors.New("no such thing"), 1, "prog: no such thing\n"},
		{"a signal", over, fmt.Errorf("wait: %w", context.Canceled), interrupted, "prog: interrupted\n"},
	} {
		var said strings.Builder
		if code := exitCode(c.ctx, &said, "prog", c.err); code != c.code || said.String() != c.says {
			t.Errorf("%s: %d, %q", c.name, code, said.String())
		}
	}
}

func TestEventually(t *testing.T) {
	n := 0
	if err := Eventually(t.Context(), "three", func() (bool, error) { n++; return n == 3, nil }); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	never := errors.New("never")
	if err := Eventually(t.Context(), "nothing", func() (bool, error) { return false, never }); !errors.Is(err, never) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Eventually(ctx, "nothing", func() (bool, error) { return false, nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
