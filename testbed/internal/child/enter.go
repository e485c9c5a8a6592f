package child

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"migrate/testbed/internal/cgroup"
)

// A Target says which host a command enters.
type Target struct {
	Pid    int    // of the host's first process
	Cgroup string // path of the host's cgroup
}

// Enter prepares a command in a host. It ends when the returned process does.
func Enter(target Target, argv []string) (*exec.Cmd, error) {
	return enterCommand(target, "", argv)
}

// EnterDetached prepares a command that goes on in the host when the returned
// process ends, which prints the machine's pid of the command. Its output is
// appended to a file of the host.
func EnterDetached(target Target, log string, argv []string) (*exec.Cmd, error) {
	return enterCommand(target, log, argv)
}

func enterCommand(target Target, log string, argv []string) (*exec.Cmd, error) {
	args := []string{"-pid", strconv.Itoa(target.Pid), "-cgroup", target.Cgroup}
	if log != "" {
		args = append(args, "-log", log)
	}
	return command(roleEnter, append(append(args, "--"), argv...)...)
}

// enter is the role.
func enter(args []string) (int, error) {
	flags := flag.NewFlagSet(roleEnter, flag.ContinueOnError)
	pid := flags.Int("pid", 0, "first process of the host")
	group := flags.String("cgroup", "", "cgroup of the host")
	log := flags.String("log", "", "file of the host to append the output to")
	if err := flags.Parse(args); err != nil {
		return exitFailure, err
	}
	// The thread that enters the namespaces is the one that starts the command.
	runtime.LockOSThread()
	if err := joinHost(*pid, *group); err != nil {
		return exitFailure, err
	}
	cmd := exec.Command(flags.Arg(0), flags.Args()[1:]...)
	if *log != "" {
		return startDetached(cmd, *log)
	}
	return runAttached(cmd)
}

// joinHost moves the calling thread into the host's namespaces. A pid namespace
// takes in only children.
func joinHost(pid int, group string) error {
	tree, err := cgroup.At(group)
	if err != nil {
		return err
	}
	if err := tree.Join(0); err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("find the host's first process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	// Threads that share a root directory cannot change the mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter host: %w", err)
	}
	const all = unix.CLONE_NEWCGROUP | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS |
		unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS
	if err := unix.Setns(pidfd, all); err != nil {
		return fmt.Errorf("enter host: %w", err)
	}
	return raiseFileLimit()
}

// runAttached runs the command with this process's streams; it dies with this one.
func runAttached(cmd *exec.Cmd) (int, error) {
	if cmd.Err != nil {
		return startFailure(cmd.Err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// Not SysProcAttr.Pdeathsig: package syscall then takes a parent in another
	// pid namespace for a dead one.
	cmd.Args = append([]string{"setpriv", "--pdeathsig", "KILL", "--"}, cmd.Args...)
	cmd.Path = "/usr/bin/setpriv"
	// A terminal sends its signals to the command too. They are caught, not
	// ignored, because a command would inherit that.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGQUIT)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	if err := cmd.Start(); err != nil {
		return startFailure(err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s)
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return exitFailure, err
	}
	return exitCode(cmd.ProcessState), nil
}

// exitCode is a shell's: 128 and the signal's number for a killed command.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}

// startFailure is a shell's too: 127 for a command that is not there, 126 for one
// that cannot be run.
func startFailure(err error) (int, error) {
	fmt.Fprintln(os.Stderr, "testbed:", err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return 127, nil
	}
	return 126, nil
}

func startDetached(cmd *exec.Cmd, log string) (int, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return exitFailure, err
	}
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return startFailure(err)
	}
	fmt.Println(cmd.Process.Pid)
	return 0, nil
}
