package matrix

import (
	"errors"
	"fmt"
	"slices"

	"migrate/testbed"
)

// A Row is a workload.
type Row struct {
	Name  string
	About string   // what runs, what goes on while it moves, and what is checked: for the table
	Image string   // one of testbed.ImageNames
	User  string   // "app"; default: the image's
	Env   []string // further variables, NAME=VALUE
	Caps  []string // further capabilities
	// Seccomp says whether system calls are forbidden.
	Seccomp Seccomp

	// Start is the script that becomes the container's program. It is run with sh -eu.
	Start string
	// Files are written to /data before Start is run: name → content.
	Files map[string]string
	// Ticks tells that the program prints "tick N TEXT" with N from 1 up.
	Ticks bool
	// Ready is a script that is tried in the container until it succeeds. What it prints is the client's $HELLO.
	Ready string
	// Load uses the container from another host; nil for a container without a network.
	Load *Client
	// Check is a script that has to succeed in the container before it moves and after every move.
	Check string
	// Refused is what a container that cannot be moved is refused for; nil: it moves.
	Refused *Refusal
}

// Seccomp is what a container has of a seccomp profile. The zero value leaves it to the engine: ctr gives none, Docker its own.
type Seccomp int

// The choices.
const (
	SeccompDefault Seccomp = iota
	SeccompOn              // the engine's profile
	SeccompOff             // none
)

// A Client runs in a container of a third host, on that host's network. $ADDR is the address of the container that is moved.
// Every line that it prints is a sign of life. At SIGTERM it checks what there is to check at the end, and ends.
type Client struct {
	Image  string
	User   string
	Script string // run with sh -eu; PID 1 gets SIGTERM only if it has a handler: trap it or exec a program that does
	Files  map[string]string
}

// A Refusal is why something is not moved.
type Refusal struct {
	Words string // that the reason given to the user has to contain
	Why   string // what CRIU lacks: for the table
	Link  string // to CRIU's own issue
}

// errRow is returned for a row that makes no sense.
var errRow = errors.New("row is not sound")

// validate holds a row to what makes its result mean something.
func (r Row) validate() error {
	switch {
	case r.Name == "" || r.About == "" || r.Start == "":
		return fmt.Errorf("%w: %q: want a name, an explanation and something to start", errRow, r.Name)
	case !slices.Contains(testbed.ImageNames(), r.Image):
		return fmt.Errorf("%w: %s: image %q is not known", errRow, r.Name, r.Image)
	case !r.Ticks && r.Load == nil:
		return fmt.Errorf("%w: %s: nothing would tell that it goes on", errRow, r.Name)
	case r.Load != nil && (r.Load.Script == "" || !slices.Contains(testbed.ImageNames(), r.Load.Image)):
		return fmt.Errorf("%w: %s: its client has no script or no image", errRow, r.Name)
	case r.Refused != nil && (r.Refused.Words == "" || r.Refused.Why == "" || r.Refused.Link == ""):
		return fmt.Errorf("%w: %s: a refusal needs words, a reason and a link", errRow, r.Name)
	}
	return nil
}

// network is what the container is connected to.
func (r Row) network() testbed.Network {
	if r.Load == nil {
		return testbed.NetworkNone
	}
	return testbed.NetworkCNI
}

// Rows are all workloads, in the order of the table.
func Rows() []Row {
	return slices.Concat(databases, servers, languages, programs, kernel)
}

// Images are those that rows and their clients need, each once.
func Images(rows []Row) []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.Image)
		if r.Load != nil {
			names = append(names, r.Load.Image)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
