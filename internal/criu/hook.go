package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Actions at which CRIU calls the script (Documentation/criu.txt, action scripts).
const (
	ActionPreDump         = "pre-dump"
	ActionPostDump        = "post-dump"
	ActionSetupNamespaces = "setup-namespaces" // after the runtime's own hooks: CRIU calls the script last
	ActionPostRestore     = "post-restore"
	ActionPostResume      = "post-resume"
)

// Hook is an action script for CRIU and the two FIFOs through which it talks with this process. The script reports
// the actions pre-dump, post-dump, post-restore and post-resume, and blocks at those that hold until Release.
//
// It is a shell script and not this program: CRIU calls it a dozen times a dump or restore, inside the downtime, and
// a shell that leaves at once costs a millisecond.
type Hook struct {
	dir     string
	said    *os.File
	verdict *os.File
	events  chan Event
}

// Event is one call of the script.
type Event struct {
	Action string
	Pid    int // of the container's init, 0 when CRIU did not say
	CRIU   int // the process that called the script
}

// The verdict's FIFO is opened both ways first, which never blocks, and the writing end let go: whenever the agent dies, also
// before this very moment, reading gives end-of-file.
const script = `#!/bin/sh
%scd '%s' || exit 1
case "$CRTOOLS_SCRIPT_ACTION" in
%s)
	exec 3<>verdict 4<verdict 3>&- || exit 1
	kill -0 %d 2>/dev/null || exit 1
	echo "$CRTOOLS_SCRIPT_ACTION ${CRTOOLS_INIT_PID:-0} $PPID" 1<>said || exit 1
	read -r verdict <&4 || exit 1
	[ "$verdict" = go ]
	;;
pre-dump | post-dump | post-restore | post-resume)
	echo "$CRTOOLS_SCRIPT_ACTION ${CRTOOLS_INIT_PID:-0} $PPID" 1<>said
	;;
esac
`

// NewHook makes the script and FIFOs in dir, a directory of this process alone, and holds at each of the actions given
// until it is released.
func NewHook(dir string, hold ...string) (*Hook, error) { return NewHookAfter(nil, dir, hold...) }

// NewHookAfter is NewHook with scripts that are called before, at every action: when one fails, nothing else is done at that action. CRIU, which
// could be given all of them, calls all of them whatever the first one says.
func NewHookAfter(before []string, dir string, hold ...string) (*Hook, error) {
	if strings.ContainsAny(dir, "'\n\"") {
		return nil, fmt.Errorf("hook directory %q: quotes and newlines are not allowed", dir)
	}
	h := &Hook{dir: dir, events: make(chan Event, 8)}
	for _, f := range []struct {
		name string
		to   **os.File
	}{{"said", &h.said}, {"verdict", &h.verdict}} {
		path := filepath.Join(dir, f.name)
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			h.Close()
			return nil, fmt.Errorf("make FIFO %s: %w", path, err)
		}
		// reading and writing: neither side ever waits for the other to open, and reads can be interrupted
		file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("open FIFO: %w", err)
		}
		*f.to = file
	}
	var first strings.Builder
	for _, other := range before {
		fmt.Fprintf(&first, "'%s' || exit 1\n", strings.ReplaceAll(other, "'", `'\''`))
	}
	text := fmt.Sprintf(script, &first, dir, strings.Join(hold, " | "), os.Getpid())
	if err := os.WriteFile(h.Script(), []byte(text), 0o700); err != nil {
		h.Close()
		return nil, fmt.Errorf("write action script: %w", err)
	}
	go h.listen()
	return h, nil
}

// Script is the path of the action script.
func (h *Hook) Script() string { return filepath.Join(h.dir, "action") }

// Events delivers the script's calls in order. It is closed by Close.
func (h *Hook) Events() <-chan Event { return h.events }

func (h *Hook) listen() {
	defer close(h.events)
	sc := bufio.NewScanner(h.said)
	for sc.Scan() {
		h.events <- parseEvent(sc.Text())
	}
}

// parseEvent reads what the script says: the action and two pids.
func parseEvent(line string) Event {
	ev, fields := Event{}, strings.Fields(line)
	if len(fields) == 3 {
		ev.Action = fields[0]
		ev.Pid, _ = strconv.Atoi(fields[1])
		ev.CRIU, _ = strconv.Atoi(fields[2])
	}
	return ev
}

// Wait returns at the next call for action, or when ctx ends, or ErrHookClosed.
func (h *Hook) Wait(ctx context.Context, action string) (Event, error) {
	for {
		select {
		case ev, ok := <-h.events:
			if !ok {
				return Event{}, ErrHookClosed
			}
			if ev.Action == action {
				return ev, nil
			}
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// ErrHookClosed is returned by Wait after Close.
var ErrHookClosed = errors.New("the hook was closed")

// Release ends one hold: CRIU goes on (ok) or takes back what it did. A verdict given before the script asks is kept.
func (h *Hook) Release(ok bool) error {
	word := "abort\n"
	if ok {
		word = "go\n"
	}
	if _, err := h.verdict.WriteString(word); err != nil {
		return fmt.Errorf("give the hook its verdict: %w", err)
	}
	return nil
}

// Close ends the hook; a script that still holds reads end-of-file and makes CRIU take back what it did.
func (h *Hook) Close() {
	for _, f := range []*os.File{h.said, h.verdict} {
		if f != nil {
			f.Close()
		}
	}
}
