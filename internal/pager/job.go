package pager

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Job is what the pager's processes are told on their command line, as JSON.
type Job struct {
	Work    string `json:"work"`    // CRIU's work directory: the socket and the pager's log are made there
	Store   string `json:"store"`   // file of 4096-byte slots; holes are punched into it where a slot has no user left
	Record  string `json:"record"`  // file that gets a Record as JSON at the end
	Workers int    `json:"workers"` // fillers; 0: as many as there are CPUs
}

// SocketName is the name that CRIU looks for in its work directory (LAZY_PAGES_SOCK_NAME in criu/uffd.c).
const SocketName = "lazy-pages.socket"

// logName is the log of both processes, in the work directory: nobody reads their standard error when the agent is dead.
const logName = "pager.log"

// The two processes.
const (
	roleGuard  = "guard"
	roleWorker = "worker"
)

// invocation is the argument of the hidden command.
type invocation struct {
	Role string   `json:"role"`
	Self []string `json:"self"` // the command itself, for the guard to start the worker
	Job  Job      `json:"job"`
}

func (i invocation) encode() (string, error) {
	b, err := json.Marshal(i)
	if err != nil {
		return "", fmt.Errorf("encode the pager's job: %w", err)
	}
	return string(b), nil
}

// RunMain is a process of the pager, guard or worker as arg says; the hidden command `migrate pager ARG` calls it. The returned
// value is the process's exit status.
func RunMain(arg string) int {
	var inv invocation
	if err := json.Unmarshal([]byte(arg), &inv); err != nil {
		fmt.Fprintf(os.Stderr, "pager: decode job: %v\n", err)
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("process", inv.Role, "pid", os.Getpid())
	// stopping the agent's service must not take the memory of a container that has just arrived with it
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGPIPE)
	// nor must the kernel choose these two when memory is short; it takes a privilege that may be lacking
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	switch inv.Role {
	case roleGuard:
		return runGuard(inv, log)
	case roleWorker:
		return runWorker(inv.Job, log)
	}
	fmt.Fprintf(os.Stderr, "pager: unknown role %q\n", inv.Role)
	return 2
}

// Result says how filling ended.
type Result string

// The results.
const (
	ResultFilled Result = "filled" // every page is in place
	ResultLost   Result = "lost"   // tasks may have run and cannot be completed: the container had to be killed
	ResultFailed Result = "failed" // ended before the tasks ran
)

// Record is what is left of a pager on disk.
type Record struct {
	Result    Result `json:"result"`
	Faults    int64  `json:"faults"`     // page faults that were answered
	Pages     int64  `json:"pages"`      // pages that were copied
	ZeroPages int64  `json:"zero_pages"` // faults that were answered with zeros
	MS        int64  `json:"ms"`         // milliseconds from the end of the restore until everything was filled
	Cause     string `json:"cause,omitempty"`
}

// write replaces the file at path.
func (r Record) write(path string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the pager's record: %w", err)
	}
	// nobody may have logged anything on this host yet
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write the pager's record: %w", err)
	}
	temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the pager's record: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write the pager's record: %w", err)
	}
	return nil
}
