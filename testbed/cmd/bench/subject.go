package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"migrate/testbed"
	"migrate/testbed/internal/child"
)

const image = "testbed/tools:latest"

// A subject is a container to be moved.
type subject struct {
	id    string
	mib   int
	seed  uint64 // of the memory's content, another one each time
	dirty int    // pages rewritten each second, at random
	noise bool   // nothing in the memory compresses; otherwise half of every page does

	image string   // if another one than the test program's
	argv  []string // likewise
}

// args are the test program's.
func (s subject) args() []string {
	if s.argv != nil {
		return s.argv
	}
	args := []string{
		"workload", "server", "--memory-mib", strconv.Itoa(s.mib), "--seed", strconv.FormatUint(s.seed, 10),
		"--tick-interval", tickInterval.String(), "--dirty-pages-per-sec", strconv.Itoa(s.dirty),
	}
	if s.noise {
		args = append(args, "--compressible", "0")
	}
	return args
}

// dirtyPages is a percentage of the pages of so much memory.
func dirtyPages(mib int, percent float64) int { return int(percent / 100 * float64(mib*pagesPerMiB)) }

func (s subject) imageName() string { return cmp.Or(s.image, image) }
func (s subject) netns() string     { return "/run/netns/" + s.id }
func (s subject) log() string       { return "/var/log/" + s.id + ".log" }

const (
	tickInterval = 10 * time.Millisecond // between two lines of the program
	settledTick  = 40                    // the line that it prints when its memory is filled and it has run for a while
)

// start runs the container in containerd on host a.
func (l *lab) start(ctx context.Context, s subject) error {
	_, err := l.a.RunContainer(ctx, testbed.ContainerSpec{ID: s.id, Image: image, Args: s.args(), Network: l.network})
	if err != nil {
		return err
	}
	return eventually(ctx, s.id+" is ready", func() bool { return lastTick(readTicks(l.a, s)) >= settledTick })
}

// readTicks is what the container has printed into its log on a host.
func readTicks(h *testbed.Host, s subject) []tick {
	text, err := os.ReadFile(h.Path(s.log()))
	if err != nil {
		return nil
	}
	return parseTicks(string(text), time.Now())
}

// A memoryReport is the answer to `workload client --verify`.
type memoryReport struct {
	Memory *struct {
		Pages int    `json:"pages"`
		Bad   int    `json:"bad"`
		First string `json:"first"`
	} `json:"memory"`
	Error string `json:"error"`
}

const (
	verifyScript = `ip link set lo up; exec workload client --addr 127.0.0.1:7000 --duration 20ms --verify`
	pagesPerMiB  = 256
)

// verify has the program, whose init has that pid in the host, check its memory.
func (s subject) verify(ctx context.Context, h *testbed.Host, pid int) error {
	out, err := run(ctx, h, "nsenter", "--target", strconv.Itoa(pid), "--net", "sh", "-c", verifyScript)
	var r memoryReport
	if jerr := json.Unmarshal([]byte(out), &r); jerr != nil {
		return fmt.Errorf("the program does not answer: %w", firstOf(err, jerr))
	}
	switch {
	case err != nil:
		return fmt.Errorf("check the memory: %w", err)
	case r.Memory == nil:
		return fmt.Errorf("check the memory: %s", r.Error)
	case r.Memory.Bad > 0 || r.Memory.Pages != s.mib*pagesPerMiB:
		return fmt.Errorf("the memory is wrong: %d of %d pages, first %s", r.Memory.Bad, r.Memory.Pages, r.Memory.First)
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// pidOf asks containerd for a container's init.
func pidOf(ctx context.Context, h *testbed.Host, id string) (int, error) {
	out, err := run(ctx, h, "ctr", "tasks", "list")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == id {
			return strconv.Atoi(f[1])
		}
	}
	return 0, fmt.Errorf("host %s has no task %s", h.Name, id)
}

// attach makes the container's network namespace on a host, if it has one by path, with an address or without.
func (l *lab) attach(ctx context.Context, h *testbed.Host, s subject, address bool) error {
	if l.network != testbed.NetworkCNI {
		return nil
	}
	if _, err := run(ctx, h, "ip", "netns", "add", s.id); err != nil || !address {
		return err
	}
	_, err := run(ctx, h, child.AttachCommand(child.Attachment{ID: s.id, Netns: s.netns()})...)
	return err
}

// wipeScript removes whatever a run may have left of a container: whole containers after a failure, and what the
// tools leave behind anyway. Most of it is not there.
const wipeScript = `
id=$1
ctr tasks delete --force $id
runc --root /run/bench/runc delete --force $id
mountpoint -q /run/bench/$id/rootfs && umount /run/bench/$id/rootfs
ctr containers delete $id
ctr images remove --sync bench/$id:checkpoint
rm -rf /run/bench/$id /var/log/$id.log
`

// wipe runs it on both hosts, and takes the network away.
func (l *lab) wipe(ctx context.Context, s subject) {
	for _, h := range []*testbed.Host{l.a, l.b} {
		// errors mean that there was nothing to remove
		_, _ = run(ctx, h, "bash", "-c", wipeScript, "wipe", s.id)
		if l.network == testbed.NetworkCNI {
			_, _ = run(ctx, h, child.DetachCommand(child.Attachment{ID: s.id, Netns: s.netns()})...)
			_, _ = run(ctx, h, "ip", "netns", "delete", s.id)
		}
	}
}
