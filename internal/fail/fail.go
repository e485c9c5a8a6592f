// Package fail holds the one error type that users meet: what failed, where, why, and what to do about it.
//
// A Fault carries a Code. Codes cross the wire, choose the process's exit status and are documented in docs/CLI.md;
// texts are for people and may change. Anything below the agents returns ordinary wrapped errors; the agents turn
// them into Faults at the point where they know the phase and the remedy.
package fail

import (
	"errors"
	"fmt"
	"strings"
)

// Code classifies a Fault. The values are part of the wire protocol and of the JSON report.
type Code string

// The codes, each with the exit status that Exit gives it.
const (
	Internal    Code = "internal"    // 1: anything not classified
	Usage       Code = "usage"       // 2: the command line is wrong
	Container   Code = "container"   // 3: the container cannot be moved as it is (unknown, stopped, paused, busy)
	Refused     Code = "refused"     // 4: the destination cannot or may not take the container
	Auth        Code = "auth"        // 5: one side does not trust the other
	Connection  Code = "connection"  // 6: the link could not be made or broke
	Checkpoint  Code = "checkpoint"  // 7: freezing or dumping failed at the source
	Restore     Code = "restore"     // 8: the destination could not bring the container up
	Space       Code = "space"       // 9: out of disk or memory on either side
	Version     Code = "version"     // 10: the peers speak no common protocol version
	Timeout     Code = "timeout"     // 11: a phase took longer than allowed
	InDoubt     Code = "in-doubt"    // 12: GO was sent and no answer came; the source stays frozen
	Unfinished  Code = "unfinished"  // 13: the container runs at the destination, clean-up at the source failed
	Lost        Code = "lost"        // 14: the container moved, and was ended there since its memory could not be filled
	Cancelled   Code = "cancelled"   // 130: interrupted by the user before GO
	Unsupported Code = "unsupported" // 3: something about the container that cannot be moved
)

var exits = map[Code]int{
	Internal: 1, Usage: 2, Container: 3, Unsupported: 3, Refused: 4, Auth: 5, Connection: 6, Checkpoint: 7,
	Restore: 8, Space: 9, Version: 10, Timeout: 11, InDoubt: 12, Unfinished: 13, Lost: 14, Cancelled: 130,
}

// FromPeer says whether a peer may give this code as its reason: those that say what became of the source's container, or
// that are not known, are not the peer's to give.
func (c Code) FromPeer() bool {
	if _, known := exits[c]; !known {
		return false
	}
	return c != InDoubt && c != Unfinished && c != Lost && c != Cancelled
}

// Fault is an error for a person. What is required, the rest is left out when empty.
type Fault struct {
	Code   Code   `json:"code"`
	What   string `json:"what"`             // what was attempted
	Where  string `json:"where,omitempty"`  // host and phase, pid, path …
	Why    string `json:"why,omitempty"`    // the first cause
	Remedy string `json:"remedy,omitempty"` // what the user can do
	Log    string `json:"log,omitempty"`    // path of a log that says more, on the host named by Where
	State  string `json:"state,omitempty"`  // where the container is now
	Err    error  `json:"-"`
}

// Error gives one line; Text gives the lines that are shown to a person.
func (f *Fault) Error() string {
	s := f.What
	if f.Where != "" {
		s += " (" + f.Where + ")"
	}
	if f.Why != "" {
		s += ": " + f.Why
	}
	return s
}

// Unwrap returns the error that caused the fault, which may be nil.
func (f *Fault) Unwrap() error { return f.Err }

// Text renders the fault as lines: error, where, why, remedy, log, state.
func (f *Fault) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "error: %s\n", f.What)
	for _, l := range []struct{ name, text string }{
		{"where", f.Where}, {"why", f.Why}, {"remedy", f.Remedy}, {"log", f.Log}, {"state", f.State},
	} {
		if l.text != "" {
			fmt.Fprintf(&b, "  %s: %s\n", l.name, strings.ReplaceAll(l.text, "\n", "\n    "))
		}
	}
	return b.String()
}

// New makes a Fault from an error: Why is the error's text.
func New(c Code, what string, err error) *Fault {
	f := &Fault{Code: c, What: what, Err: err}
	if err != nil {
		f.Why = err.Error()
	}
	return f
}

// With fills fields that are still empty and returns f.
func (f *Fault) With(where, remedy string) *Fault {
	if f.Where == "" {
		f.Where = where
	}
	if f.Remedy == "" {
		f.Remedy = remedy
	}
	return f
}

// As returns the Fault in err's chain, or wraps err as one with the code and text given.
func As(err error, c Code, what string) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return New(c, what, err)
}

// Exit gives the process's exit status for an error: 0 for nil, 1 for an error that is no Fault.
func Exit(err error) int {
	if err == nil {
		return 0
	}
	var f *Fault
	if errors.As(err, &f) {
		if n, ok := exits[f.Code]; ok {
			return n
		}
	}
	return 1
}
