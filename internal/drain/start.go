package drain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// Job is what one process does.
type Job struct {
	FIFOs  []string `json:"fifos"`            // paths of what to read; they must exist
	Log    string   `json:"log"`              // path of the file to append to; made if it is not there
	Remove []string `json:"remove,omitempty"` // paths that are removed at the end along with the FIFOs, if they still lead to what they do now
}

// startLimit bounds how long the process may take until it reads.
const startLimit = 20 * time.Second

// Start starts a process that does job, with self, the hidden command that calls RunMain with one more argument. It returns when
// the FIFOs are open for reading, so that opening them for writing waits for nobody. The process outlives the caller: it ends
// when the last writer closes, or by stop, which is for a job that no writer ever came to.
func Start(ctx context.Context, self []string, job Job) (stop func(), err error) {
	arg, err := json.Marshal(job)
	if err != nil {
		return nil, fmt.Errorf("encode the job of reading output: %w", err)
	}
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer ready.Close()
	cmd := exec.Command(self[0], append(self[1:len(self):len(self)], string(arg))...)
	cmd.ExtraFiles = []*os.File{theirs}
	// a session of its own: a Ctrl-C on the agent's terminal is not for it
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("start the process that reads output: %w", err)
	}
	gone := make(chan struct{})
	go func() { _ = cmd.Wait(); close(gone) }() // it says on the pipe how it went; afterwards it is on its own
	stop = func() {
		_ = cmd.Process.Kill()
		<-gone
	}
	if err := awaitReady(ctx, ready); err != nil {
		stop()
		return nil, fmt.Errorf("start the process that reads output: %w", err)
	}
	return stop, nil
}

// readyText is what the process says once it reads; anything else is an error's text.
const readyText = "ready"

func awaitReady(ctx context.Context, r *os.File) error {
	end := time.Now().Add(startLimit)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	if err := r.SetReadDeadline(end); err != nil {
		return fmt.Errorf("limit the wait: %w", err)
	}
	said, err := io.ReadAll(io.LimitReader(r, 4<<10))
	switch {
	case err != nil:
		return fmt.Errorf("wait for it: %w", err)
	case len(said) == 0:
		return errors.New("it ended without a word")
	case string(said) != readyText:
		return errors.New(string(said))
	}
	return nil
}

// readyFD is where RunMain says that it reads.
const readyFD = 3

// RunMain is the process that Start starts; its result is the exit status.
func RunMain(arg string) int {
	ready := os.NewFile(readyFD, "ready")
	if ready == nil {
		return 2
	}
	w, err := open(arg)
	if err != nil {
		fmt.Fprint(ready, err)
		ready.Close()
		return 1
	}
	fmt.Fprint(ready, readyText)
	ready.Close()
	err = w.run()
	w.remove()
	if err != nil {
		w.note(err)
		return 1
	}
	return 0
}
