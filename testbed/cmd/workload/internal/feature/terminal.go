package feature

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// pty has a shell on a pseudo-terminal that is its controlling terminal.
type pty struct {
	master  *os.File
	answers *bufio.Reader
}

const (
	ptyRows    = 37
	ptyColumns = 91
)

func newPTY(Options) (machine, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, err
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, err
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: ptyRows, Col: ptyColumns}); err != nil {
		return nil, err
	}
	shell := exec.Command("sh", "-c", `stty -echo; echo begun; while read -r n; do echo "$n $(stty size)"; done`)
	shell.Stdin, shell.Stdout, shell.Stderr = slave, slave, slave
	shell.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := shell.Start(); err != nil {
		return nil, err
	}
	p := &pty{master, bufio.NewReader(master)}
	return p, p.expect("begun")
}

func (p *pty) expect(want string) error {
	line, err := p.answers.ReadString('\n')
	if got := strings.TrimSpace(line); err != nil || got != want {
		return damage("the terminal says %q and not %q, %v", got, want, err)
	}
	return nil
}

func (p *pty) step(n uint64) error {
	if _, err := fmt.Fprintf(p.master, "%d\n", n); err != nil {
		return err
	}
	return p.expect(fmt.Sprintf("%d %d %d", n, ptyRows, ptyColumns))
}
