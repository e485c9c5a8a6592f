package feature

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A partner is a second process, which answers lines with lines.
type partner struct {
	in  io.Writer
	out *bufio.Reader
	pid int
}

// startPartner starts this program as the partner of a kind. files are its descriptors from 3 on.
func startPartner(kind string, files []*os.File, args ...string) (*partner, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{"feature", "--partner", "--kind", kind}, args...)...)
	cmd.ExtraFiles, cmd.Stderr = files, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &partner{in: in, out: bufio.NewReader(out), pid: cmd.Process.Pid}, nil
}

func (p *partner) ask(question string) (string, error) {
	if _, err := io.WriteString(p.in, question+"\n"); err != nil {
		return "", err
	}
	answer, err := p.out.ReadString('\n')
	return strings.TrimSuffix(answer, "\n"), err
}

// expect asks and checks the answer.
func (p *partner) expect(question, want string) error {
	got, err := p.ask(question)
	if err != nil {
		return fmt.Errorf("ask the other process to %s: %w", question, err)
	}
	if got != want {
		return damage("asked to %s, the other process says %q and not %q", question, got, want)
	}
	return nil
}

// partners are what the second processes do with a question.
var partners = map[string]func(args []string) (answer func(question string) string, err error){
	"sysv":     sysvPartner,
	"posixshm": posixShmPartner,
	"locks":    locksPartner,
	"files":    filesPartner,
}

// RunPartner is the second process of a kind, until its input ends.
func RunPartner(kind string, args []string, in io.Reader, out io.Writer) error {
	make := partners[kind]
	if make == nil {
		return fmt.Errorf("kind %q has no second process", kind)
	}
	answer, err := make(args)
	if err != nil {
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if _, err := fmt.Fprintln(out, answer(lines.Text())); err != nil {
			return err
		}
	}
	return lines.Err()
}
