package transfer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
)

// TestIsLinkError checks above all that what fails on this host alone is not taken for the link.
func TestIsLinkError(t *testing.T) {
	for _, c := range []struct {
		err  error
		link bool
	}{
		{ErrDead, true},
		{ErrClosed, true},
		{io.ErrUnexpectedEOF, true},
		{&LaneError{Op: "send", Err: syscall.EPIPE}, true},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EHOSTUNREACH)}, true},
		{&net.DNSError{Err: "no such host"}, true},
		{syscall.ECONNRESET, true},
		{os.ErrDeadlineExceeded, true},
		{syscall.ESRCH, false},
		{syscall.ENOENT, false},
		{&os.PathError{Op: "open", Path: "/proc/7/maps", Err: syscall.ENOENT}, false},
		{os.NewSyscallError("ptrace", syscall.ESRCH), false},
		{ErrRefused, false},
		{errors.New("whatever"), false},
	} {
		if got := IsLinkError(fmt.Errorf("outer: %w", c.err)); got != c.link {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
