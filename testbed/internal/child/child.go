// Package child holds what a testbed runs in processes of its own. All of them
// are the program that uses the testbed, started again under another name: the
// first process of a host, the one that holds the switch's network namespace,
// and helpers that enter a host.
//
// A program hands control over with [Run] before it does anything else.
package child

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// name is argument zero of every such process.
const name = "migrate-testbed"

// The roles. Argument one names the role, argument two the testbed's cgroup path,
// so that a look at the process list tells what belongs where.
const (
	roleBoot   = "boot"   // makes a host around itself and becomes its init
	roleInit   = "init"   // first process of a host
	roleSwitch = "switch" // holds the network namespace of the switch
	roleEnter  = "enter"  // runs a command in a host
	roleCNI    = "cni"    // attaches a container to a host's network, inside the host
)

// exitFailure is the exit code of a role that failed by itself, as env(1) has it.
const exitFailure = 125

var ready bool

// Run runs the role this process was started for, and tells whether there was one.
func Run() (code int, ran bool) {
	ready = true
	// Inside a host the program is also called by its path.
	if len(os.Args) < 2 || (os.Args[0] != name && os.Args[0] != Self) {
		keepFiles()
		return 0, false
	}
	roles := map[string]func(args []string) (int, error){
		roleBoot:   boot,
		roleInit:   initialise,
		roleSwitch: holdSwitch,
		roleEnter:  enter,
		roleCNI:    attach,
	}
	role, ok := roles[os.Args[1]]
	if !ok {
		return 0, false
	}
	code, err := role(os.Args[2:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "testbed: %s: %v\n", os.Args[1], err)
		return exitFailure, true
	}
	return code, true
}

// keepFiles keeps the files that the program was started with from being inherited by hosts, which outlive it: a lock on one
// of them, as of flock(1), would be held for as long as the hosts are there.
func keepFiles() {
	const firstFile, lastFile = 3, 1<<32 - 1
	_ = unix.CloseRange(firstFile, lastFile, unix.CLOSE_RANGE_CLOEXEC) // kernels before 5.11 cannot
}

// errNotReady tells the author of a program what is missing.
var errNotReady = errors.New("the program does not call testbed.Child first in main or TestMain")

// command prepares a process of this program with a role.
func command(role string, args ...string) (*exec.Cmd, error) {
	if !ready {
		return nil, errNotReady
	}
	return &exec.Cmd{
		Path: "/proc/self/exe",
		Args: append([]string{name, role}, args...),
		Dir:  "/",
	}, nil
}

// detached makes a process survive its parent's terminal and session.
func detached(cloneflags uintptr) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Cloneflags: cloneflags}
}

// BelongsTo tells whether a command line is that of a process started here for a
// testbed with the given cgroup.
func BelongsTo(argv [][]byte, cgroup string) bool {
	if len(argv) < 3 || string(argv[0]) != name {
		return false
	}
	for _, arg := range argv[2:] {
		if group := string(arg); group == cgroup || strings.HasPrefix(group, cgroup+"/") {
			return true
		}
	}
	return false
}
