package pages

import (
	"errors"
	"fmt"
)

// ErrFull is what Encoder.Pages returns when the destination's store, or the tables beside it, could not take more.
var ErrFull = errors.New("page store is full")

// FormatError says that a stream is damaged, malformed or beyond the store's limits.
type FormatError struct {
	Offset int64 // bytes of the stream before the record at fault
	Reason string
	Err    error // cause, may be nil
}

func (e *FormatError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("page stream at offset %d: %s: %v", e.Offset, e.Reason, e.Err)
	}
	return fmt.Sprintf("page stream at offset %d: %s", e.Offset, e.Reason)
}

func (e *FormatError) Unwrap() error { return e.Err }

// LimitError says that a number exceeds a limit.
type LimitError struct {
	What     string
	Got, Max uint64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: %d exceeds %d", e.What, e.Got, e.Max)
}
