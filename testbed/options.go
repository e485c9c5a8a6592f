package testbed

import (
	"fmt"
	"log/slog"
	"regexp"
	"slices"

	"migrate/testbed/internal/lan"
)

// DefaultName is the name of a testbed that is given none.
const DefaultName = "mt"

// Options say what a testbed is to be like. The zero value gives three hosts a, b
// and c without link limits.
type Options struct {
	Name  string   // tells testbeds apart; default DefaultName
	Hosts []string // default a, b, c
	Link  string   // rate of every host's link each way: none, 100mbit, 1gbit, 10gbit

	Packages     []string          // Debian packages that the hosts have besides the usual ones
	Docker       Docker            // gives the hosts Docker, whose daemon is at work from the start
	InContainerd []string          // hosts whose Docker keeps images in containerd; the others' has a store of its own
	Images       []string          // images that are imported into every host, see [Images]
	Binaries     map[string]string // name in /usr/local/bin of every host → file to copy there
	Binds        map[string]string // path in every host → file or directory of the machine to show there
	Workload     string            // file of the static test program for the image "tools"; default: built with go

	// Cgroup2 shows the hosts a cgroup2 mount only. Controllers that the machine uses
	// in version 1 are missing there; ctr run then needs --cpu-shares=0.
	Cgroup2 bool
	V1      []string // hosts that see the machine's hierarchies all the same
	// Replace takes a running testbed of the same name down first. What a crashed
	// program left is always taken down.
	Replace bool

	Logger *slog.Logger // default: none
}

// maxHosts is bounded by the addresses set aside for hosts and their containers.
const maxHosts = 16

var (
	validName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,30}$`)
	// A host's name is part of an interface's, which has at most 15 characters.
	validHost = regexp.MustCompile(`^[a-z][a-z0-9-]{0,8}$`)
)

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if len(o.Hosts) == 0 {
		o.Hosts = []string{"a", "b", "c"}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o, o.check()
}

func (o Options) check() error {
	if err := checkName(o.Name); err != nil {
		return err
	}
	if len(o.Hosts) > maxHosts {
		return fmt.Errorf("%d hosts: a testbed has at most %d", len(o.Hosts), maxHosts)
	}
	for i, host := range o.Hosts {
		if !validHost.MatchString(host) || host == switchName {
			return fmt.Errorf("host name %q: want at most 9 lower-case letters, digits and dashes, a letter first", host)
		}
		if slices.Contains(o.Hosts[:i], host) {
			return fmt.Errorf("host name %q is given twice", host)
		}
	}
	for _, host := range o.InContainerd {
		if o.Docker == DockerNone || !slices.Contains(o.Hosts, host) {
			return fmt.Errorf("host %q is to keep Docker's images in containerd, and is not there or has no Docker", host)
		}
	}
	if _, err := lan.ParseRate(o.Link); err != nil {
		return err
	}
	return o.Docker.check()
}

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("testbed name %q: want lower-case letters, digits and dashes", name)
	}
	return nil
}
