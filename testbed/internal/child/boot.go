package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// Self is where a host has a copy of the program, for its init and the helpers
// that run inside.
const Self = "/usr/local/lib/testbed/self"

// A Config is what a host is made of. Paths are the machine's.
type Config struct {
	Cgroup   string   // path of the host's cgroup in all hierarchies
	Hostname string   //
	Lower    string   // the tree all hosts share
	Upper    string   // what this host changes in it
	Work     string   // the overlay's own
	Root     string   // empty directory, becomes the root
	Binds    []Bind   // further directories
	Cgroup2  bool     // show the host a cgroup2 mount only
	Env      []string // of the init process
}

// A Bind shows a directory or file of the machine inside the host.
type Bind struct {
	From, To string
}

// boot pipes: the configuration comes in on one, the outcome goes out on the other.
const (
	configFD = 3
	statusFD = 4
	statusOK = "ok"
)

// A Host is a started first process that waits for its configuration.
type Host struct {
	Pid int

	config, status *os.File
}

// StartHost starts the first process of a host in its namespaces; output goes to
// log. The host does nothing before [Host.Boot].
func StartHost(cgroup string, log *os.File) (*Host, error) {
	cmd, err := command(roleBoot, cgroup)
	if err != nil {
		return nil, err
	}
	configOut, configIn, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start host: %w", err)
	}
	defer configOut.Close()
	statusOut, statusIn, err := os.Pipe()
	if err != nil {
		_ = configIn.Close()
		return nil, fmt.Errorf("start host: %w", err)
	}
	defer statusIn.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{configOut, statusIn}
	// The cgroup namespace comes later: its root is the group the process is in
	// when it is made, and the parent has yet to choose that.
	cmd.SysProcAttr = detached(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC)
	if err := start(cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start host: %w", err), configIn.Close(), statusOut.Close())
	}
	return &Host{Pid: cmd.Process.Pid, config: configIn, status: statusOut}, nil
}

// start starts cmd and reaps it when it ends.
func start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// Boot has the host make itself and returns when its init runs.
func (h *Host) Boot(config Config) error {
	defer h.status.Close()
	err := json.NewEncoder(h.config).Encode(config)
	if err := errors.Join(err, h.config.Close()); err != nil {
		return fmt.Errorf("configure host: %w", err)
	}
	status, err := io.ReadAll(h.status)
	if err != nil {
		return fmt.Errorf("wait for host: %w", err)
	}
	switch text := string(status); {
	case text == statusOK:
		return nil
	case text == "":
		return errors.New("the first process of the host ended without a reason")
	default:
		return errors.New(text)
	}
}

// Discard gives a host up that was not booted.
func (h *Host) Discard() { _ = errors.Join(h.config.Close(), h.status.Close()) }

// boot is the role: it makes the host and executes the init in it.
func boot([]string) (int, error) {
	status := os.NewFile(statusFD, "status")
	config, err := readConfig()
	if err != nil || config.Root == "" {
		return exitFailure, err // the parent gave up before it had a configuration
	}
	err = becomeInit(config)
	_, _ = io.WriteString(status, err.Error())
	return exitFailure, err
}

func readConfig() (config Config, err error) {
	pipe := os.NewFile(configFD, "config")
	defer pipe.Close()
	err = json.NewDecoder(pipe).Decode(&config)
	if errors.Is(err, io.EOF) {
		return Config{}, nil
	}
	return config, err
}

// becomeInit returns only if it fails.
func becomeInit(config Config) error {
	// The cgroup namespace belongs to a thread; executing the init makes this
	// thread the process.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	if err := mountAll(config); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	if err := setSysctls(); err != nil {
		return err
	}
	if err := raiseFileLimit(); err != nil {
		return err
	}
	argv := []string{name, roleInit, config.Cgroup}
	return fmt.Errorf("execute the init: %w", unix.Exec(Self, argv, config.Env))
}

// setSysctls sets what the host's network needs; the values belong to its namespace.
func setSysctls() error {
	for _, which := range []string{"all", "default"} {
		path := "/proc/sys/net/ipv6/conf/" + which + "/accept_dad"
		if err := os.WriteFile(path, []byte("0"), 0); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("switch off duplicate address detection: %w", err)
		}
	}
	return nil
}

// raiseFileLimit gives the host all descriptors the machine permits: CRIU needs
// two per MiB of a process in some modes.
func raiseFileLimit() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = limit.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("raise the limit of open files: %w", err)
	}
	return nil
}
