package criu

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"migrate/internal/preflight"
)

// Cause is the error in a CRIU log, with what can be done about it where that is known.
type Cause struct {
	Text   string // without time stamp and source position
	Code   string // of the kind of finding that it tells of, see package preflight; "" when unknown, as the rest
	Reason string
	Remedy string
}

// String is what CRIU said, and what that means where it is known.
func (c Cause) String() string {
	s := "CRIU: " + c.Text
	if c.Reason != "" {
		s += "; " + c.Reason
	}
	return s
}

// Unexplained is what a runtime said of a failure that CRIU's log does not explain. Of a CRIU that left no log the runtime says only
// in which notification it failed, which tells nobody anything.
func Unexplained(said string) string {
	if strings.Contains(said, "criu failed: type") {
		return "CRIU ended before it wrote a log, as when it cannot be run or was killed; the runtime says: " + said
	}
	return said
}

// errorLine matches "(00.012345) 12: Error (criu/sk-inet.c:191): inet: Connected TCP socket" (criu/log.c), and what CRIU's code in a
// process says, which has no time: "pie: 8: Error (criu/pie/parasite.c:588): send_fds failed (-22)".
var errorLine = regexp.MustCompile(`^(?:\(\d+\.\d+\)|pie:)\s*(?:\d+: )?Error \([^)]*\): (.*)$`)

// FirstCause reads a CRIU log and returns its first error that is known, or else its first one. Errors that only follow from others
// come later in the log; but CRIU may first say only that a process did not do what it was told.
func FirstCause(path string) (Cause, error) {
	f, err := os.Open(path)
	if err != nil {
		return Cause{}, fmt.Errorf("read CRIU's log: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	var first Cause
	for sc.Scan() {
		m := errorLine.FindStringSubmatch(sc.Text())
		if m == nil || harmless(m[1]) {
			continue
		}
		c := explain(m[1])
		if c.Remedy != "" {
			return c, nil
		}
		if first.Text == "" {
			first = c
		}
	}
	if err := sc.Err(); err != nil {
		return Cause{}, fmt.Errorf("read CRIU's log: %w", err)
	}
	if first.Text != "" {
		return first, nil
	}
	return Cause{}, fmt.Errorf("no error in CRIU's log %s", path)
}

// harmless are errors that CRIU reports and survives.
func harmless(text string) bool {
	for _, s := range []string{"Can't setup RLIMIT_NOFILE for self", "Can't lookup mount for fsnotify"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

func explain(text string) Cause {
	c := Cause{Text: strings.TrimSpace(text)}
	if k, ok := preflight.Explain(text); ok {
		c.Code, c.Reason, c.Remedy = k.Code, k.Reason, k.Remedy
	}
	return c
}

// KeepLog copies a log to dir under name, so that it outlives the memory file system it was written to, and returns
// the copy's path. CRIU's logs hold no memory contents.
func KeepLog(path, dir, name string) (string, error) {
	in, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("keep CRIU's log: %w", err)
	}
	defer in.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("keep CRIU's log: %w", err)
	}
	to := filepath.Join(dir, name)
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return "", fmt.Errorf("keep CRIU's log: %w", err)
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return "", fmt.Errorf("keep CRIU's log: %w", err)
	}
	if err := out.Close(); err != nil {
		return "", fmt.Errorf("keep CRIU's log: %w", err)
	}
	return to, nil
}
