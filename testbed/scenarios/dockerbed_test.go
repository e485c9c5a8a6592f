package scenarios

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"migrate/testbed"
)

// A dock is a testbed of hosts with one generation of Docker, which all tests of that generation share. It comes up when the first
// of them asks for it.
type dock struct {
	generation testbed.Docker
	name       string
	hosts      []string

	inContainerd []string // hosts whose Docker keeps images there
	imagesAt     []string // hosts that have images; default: all

	once sync.Once
	bed  *testbed.Testbed
	err  error
}

var (
	dock26 = &dock{generation: testbed.Docker26, name: bedName + "-d26", hosts: []string{"a", "b", "c"}}
	// Hosts of it keep images in different ways.
	dock28 = &dock{generation: testbed.Docker28, name: bedName + "-d28", hosts: []string{"a", "b"}, inContainerd: []string{"b"}}

	// dockCrash is for tests that kill daemons, which all containers of their hosts notice.
	dockCrash = &dock{generation: crashGeneration(), name: bedName + "-dcr", hosts: []string{"a", "b", "c"}}

	// Hosts of it keep images in different ways, and only the first has any.
	stores26 = &dock{generation: testbed.Docker26, name: bedName + "-s26", hosts: []string{"a", "b", "c"}, inContainerd: []string{"b", "c"}, imagesAt: []string{"a"}}

	dock28shim = &dock{generation: testbed.Docker28Shim, name: bedName + "-d28s", hosts: []string{"a", "b", "c", "d"}}

	allDocks = []*dock{dock26, dock28, dock28shim, dockCrash, stores26}
)

func crashGeneration() testbed.Docker {
	if engineAsked == onDocker28 {
		return testbed.Docker28Shim
	}
	return testbed.Docker26
}

// up returns the hosts.
func (d *dock) up(t *testing.T) (a, b *testbed.Host) {
	t.Helper()
	d.once.Do(func() {
		images := testbed.Images{Names: []string{testbed.ImageRedis, testbed.ImageTools}, Hosts: d.imagesAt, Workload: programs["workload"]}
		d.bed, d.err = testbed.Up(context.Background(), testbed.Options{
			Name: d.name, Hosts: d.hosts, Binaries: programs, Docker: d.generation, InContainerd: d.inContainerd, Replace: true,
		})
		if d.err == nil {
			d.err = d.bed.Import(context.Background(), images)
		}
		if d.err != nil {
			return
		}
		for _, h := range d.bed.Hosts() {
			d.err = errors.Join(d.err, wrapCRIU(h))
			docks.Store(h, d)
		}
	})
	if d.err != nil {
		t.Fatal(d.err)
	}
	return d.bed.Host("a"), d.bed.Host("b")
}

// down looks for what no single test can be blamed for, and takes the hosts away.
func (d *dock) down(ctx context.Context) error {
	if d.bed == nil {
		return nil
	}
	var errs []error
	for _, h := range d.bed.Hosts() {
		for what, argv := range map[string][]string{
			"containers":        {"docker", "ps", "-aq"},
			"mounts of stages":  {"sh", "-c", "grep -E ' /run/(migrate|scn)|/checkpoints/' /proc/mounts || true"},
			"processes of CRIU": {"sh", "-c", "pgrep -a criu || true"},
			"spools of images":  {"sh", "-c", "ls -d /run/scn/*/state/docker/* 2>/dev/null || true"},
			"leases":            {"sh", "-c", "ctr -n moby leases ls -q | grep ^migrate- || true"},
			"unpacked images":   {"sh", "-c", "ls -d /tmp/ctrd-checkpoint* 2>/dev/null || true"},
		} {
			if text, err := lookFor(ctx, h, argv); err != nil || text != "" {
				errs = append(errs, fmt.Errorf("host %s of %s is left with %s: %s %w", h.Name, d.name, what, text, err))
			}
		}
	}
	if *keepBed {
		return errors.Join(errs...)
	}
	errs = append(errs, d.bed.Down(ctx))
	left, err := testbed.Leftovers(d.name)
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left of the testbed: %s", strings.Join(left, ", ")))
	}
	return errors.Join(append(errs, err)...)
}

// dockerRun starts a container on a host, which is removed from all hosts at the test's end.
func dockerRun(t *testing.T, d *dock, h *testbed.Host, name string, args ...string) {
	t.Helper()
	t.Cleanup(func() {
		for _, h := range d.bed.Hosts() {
			_, _ = try(h, "docker", "rm", "--force", "--volumes", name)
		}
	})
	run(t, h, append([]string{"docker", "run", "--detach", "--name", name}, args...)...)
}

// dockerState is what docker-inspect(1) says of a container.
type dockerState struct {
	State struct {
		Status string
		Pid    int
		Health *struct{ Status string }
	}
	Config     struct{ Hostname, Image string }
	HostConfig struct {
		RestartPolicy struct{ Name string }
		NetworkMode   string
	}
	NetworkSettings struct {
		Networks map[string]struct{ IPAddress, MacAddress string }
		Ports    map[string][]struct{ HostPort string }
	}
}

// dockerInspect returns nil if there is no such container.
func dockerInspect(t *testing.T, h *testbed.Host, name string) *dockerState {
	t.Helper()
	out, err := try(h, "docker", "inspect", "--type", "container", name)
	if err != nil {
		return nil
	}
	var all []dockerState
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		t.Fatalf("%s: docker inspect %s: %v\n%s", h.Name, name, err, out)
	}
	return &all[0]
}

// assertDocked checks that a container runs at one host and that the other has nothing of it.
func assertDocked(t *testing.T, name string, at, not *testbed.Host) *dockerState {
	t.Helper()
	s := dockerInspect(t, at, name)
	if s == nil || s.State.Status != "running" {
		t.Fatalf("%s: container %s is %+v", at.Name, name, s)
	}
	if other := dockerInspect(t, not, name); other != nil {
		t.Errorf("%s: container %s is there, too: %+v", not.Name, name, other.State)
	}
	assertNothingUnderWay(t, not, sendDir(name))
	return s
}
