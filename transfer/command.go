package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stderrLines and stderrBytes bound what is kept of a command's stderr.
	stderrLines = 20
	stderrBytes = 4 << 10
	// reapTime is how long a command may take to end once its pipes are
	// closed, before it is killed.
	reapTime = 3 * time.Second
)

// CommandError says that the command a session ran over ended, and the last it
// said. It unwraps to what the session saw of it.
type CommandError struct {
	Command string
	Status  string // such as "exit status 255"
	Stderr  string // its last lines
	Err     error
}

func (e *CommandError) Error() string {
	msg := fmt.Sprintf("%v: %s ended with %s", e.Err, e.Command, e.Status)
	if e.Stderr != "" {
		msg += ": " + e.Stderr
	}
	return msg
}

func (e *CommandError) Unwrap() error { return e.Err }

// DialCommand runs a command, such as that of SSHCommand, and opens a session
// as the source with the destination at its stdin and stdout. ctx and
// Options.HandshakeTimeout bound the opening, not the session. The command
// ends with the session; when it ends earlier, errors match *CommandError.
func DialCommand(ctx context.Context, argv []string, o Options) (*Session, error) {
	if len(argv) == 0 {
		return nil, errors.New("dial command: no command")
	}
	c, err := startCommand(argv)
	if err != nil {
		return nil, fmt.Errorf("dial command: %w", err)
	}
	s, err := openPipe(ctx, c, Source, strings.Join(argv, " "), o)
	if err != nil {
		return nil, fmt.Errorf("dial command: %w", c.explain(err))
	}
	return s, nil
}

// command is a lane over a running command.
type command struct {
	pipe
	cmd    *exec.Cmd
	stderr *tail
	exited chan struct{} // closed when the command has ended and is reaped
	reap   sync.Once
}

func startCommand(argv []string) (*command, error) {
	// Pipes of our own: those of exec.Cmd are closed by Wait while the
	// command's last words may still be in them.
	stdin, toStdin, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	fromStdout, stdout, err := os.Pipe()
	if err != nil {
		toStdin.Close()
		return nil, err
	}
	defer stdout.Close()
	c := &command{stderr: &tail{}, exited: make(chan struct{})}
	c.pipe.r, c.pipe.w = fromStdout, toStdin
	c.cmd = exec.Command(argv[0], argv[1:]...)
	// A session of its own: a Ctrl-C on the terminal is for this program, which still has something to say to the peer.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = stdin, stdout, c.stderr
	// A grandchild may hold stderr open after the command has ended.
	c.cmd.WaitDelay = reapTime
	if err := c.cmd.Start(); err != nil {
		c.pipe.Close()
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	go func() {
		defer close(c.exited)
		_ = c.cmd.Wait() // the status is in ProcessState
	}()
	return c, nil
}

// Read adds the command's end, if that is the reason, to an error.
func (c *command) Read(p []byte) (int, error) {
	n, err := c.pipe.Read(p)
	if n == 0 && errors.Is(err, io.EOF) {
		// The reason must not look like the end that io.EOF stands for.
		if why := c.explain(io.ErrUnexpectedEOF); why != io.ErrUnexpectedEOF {
			err = why
		}
	}
	return n, err
}

// Write adds the command's end, if that is the reason, to an error.
func (c *command) Write(p []byte) (int, error) {
	n, err := c.pipe.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		err = c.explain(err)
	}
	return n, err
}

// explain adds how the command ended to err, when it has ended or does so
// shortly and not well.
func (c *command) explain(err error) error {
	var already *CommandError
	if errors.As(err, &already) {
		return err
	}
	select {
	case <-c.exited:
	case <-time.After(reapTime / 3):
		return err
	}
	if c.cmd.ProcessState.Success() && c.stderr.String() == "" {
		return err
	}
	return &CommandError{Command: c.cmd.Args[0], Status: c.cmd.ProcessState.String(), Stderr: c.stderr.String(), Err: err}
}

// Close closes the command's pipes and makes sure that it ends.
func (c *command) Close() error {
	err := c.pipe.Close()
	c.reap.Do(func() {
		go func() {
			select {
			case <-c.exited:
			case <-time.After(reapTime):
				_ = c.cmd.Process.Kill()
			}
		}()
	})
	return err
}

// tail keeps the last of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if extra := len(t.text) - stderrBytes; extra > 0 {
		t.text = append(t.text[:0], t.text[extra:]...)
	}
	return len(p), nil
}

// String is the last lines, joined, with what could confuse a terminal removed.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	if extra := len(lines) - stderrLines; extra > 0 {
		lines = lines[extra:]
	}
	for i, line := range lines {
		lines[i] = strings.Map(printable, strings.TrimSpace(line))
	}
	return strings.Join(lines, "; ")
}

func printable(r rune) rune {
	if r < ' ' && r != '\t' || r == 0x7f {
		return -1
	}
	return r
}
