package layers

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrBase is returned by Apply when the directory does not hold what the stream
// builds on: a round was left out, applied twice, or applied elsewhere.
var ErrBase = errors.New("directory does not match what the stream builds on")

// ErrDevice is returned for a device node that is neither a whiteout nor allowed
// by Options.AllowDevices or Limits.AllowDevices.
var ErrDevice = errors.New("device nodes are not allowed")

// based marks err as ErrBase when it is what a missing or different entry gives.
func based(err error) error {
	if vanished(err) || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("%w: %w", ErrBase, err)
	}
	return err
}

// FormatError says that a stream is damaged or malformed.
type FormatError struct {
	Offset int64 // bytes of the stream before the record at fault
	Reason string
	Err    error // cause, may be nil
}

func (e *FormatError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("layer stream at offset %d: %s: %v", e.Offset, e.Reason, e.Err)
	}
	return fmt.Sprintf("layer stream at offset %d: %s", e.Offset, e.Reason)
}

func (e *FormatError) Unwrap() error { return e.Err }

// LimitError says that a tree or a stream exceeds a limit.
type LimitError struct {
	What  string // the limit's name, such as "MaxEntries"
	Limit int64
	Got   int64
	Path  string // upper-relative, empty where no single entry is at fault
}

func (e *LimitError) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("layer limit %s: %d exceeds %d (%q)", e.What, e.Got, e.Limit, e.Path)
	}
	return fmt.Sprintf("layer limit %s: %d exceeds %d", e.What, e.Got, e.Limit)
}

// ChangedError is returned by a final WriteDelta when an entry changed while it
// was read, although every task that could change it should be frozen.
type ChangedError struct {
	Path string // upper-relative
	Err  error  // cause, may be nil
}

func (e *ChangedError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%q changed during the final round: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%q changed during the final round", e.Path)
}

func (e *ChangedError) Unwrap() error { return e.Err }
