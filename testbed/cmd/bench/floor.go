package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// A floor is plain runc and CRIU on one host: checkpoint, restore, and nothing sent. No tool that moves a container the
// same way can be faster by much.
//
// CRIU's own lock of the network forks iptables several times. What a move costs at least without that is measured
// with skipLock; nothing talks to the containers here.
type floor struct {
	lab      *lab
	skipLock bool
}

func (f *floor) name() string {
	if f.skipLock {
		return toolFloorSkip
	}
	return toolFloor
}

func (f *floor) mode() string {
	if f.skipLock {
		return "runc-local, network-lock skip"
	}
	return "runc-local"
}

func (*floor) stop() {}

// skipConfig is CRIU's configuration for containers that name it.
const skipConfig = "/run/bench/skip.conf"

func (f *floor) prepare(ctx context.Context) error {
	_, err := script(ctx, f.lab.a, `mkdir -p /run/bench; echo "network-lock skip" > $1`, skipConfig)
	return err
}

// bundleScript makes a runc bundle of a container that containerd has made but not started, so that it is the same
// kind of container as the others: specification, snapshot and image are containerd's.
const bundleScript = `
dir=$1 id=$2 image=$3 withns=$4
shift 4
mkdir -p $dir/rootfs $dir/images $dir/work
ctr containers create $withns $image $id "$@"
$(ctr snapshots mounts $dir/rootfs $id)
ctr containers info --spec $id
`

// moveScript has the program's output on its standard output, and the marks among it. runc's and CRIU's own words go
// to logs.
const moveScript = markFunction + `
dir=$1 id=$2
mark begin
runc --root /run/bench/runc --log $dir/runc.log checkpoint --image-path $dir/images --work-path $dir/work $id
mark dumped
runc --root /run/bench/runc --log $dir/runc.log restore --detach --bundle $dir --image-path $dir/images --work-path $dir/work $id </dev/null 2>/dev/null
mark returned
`

func (f *floor) move(ctx context.Context, s subject) (sample, error) {
	if err := f.bundle(ctx, s); err != nil {
		return sample{}, err
	}
	out, err := newPipe()
	if err != nil {
		return sample{}, err
	}
	defer out.close()
	if err := f.start(ctx, s, out); err != nil {
		return sample{}, err
	}
	if err := f.command(ctx, out, "bash", "-euc", moveScript, "move", dirOf(s), s.id); err != nil {
		return sample{}, f.explain(ctx, s, err)
	}
	first, err := out.firstAfter(ctx, "dumped")
	if err != nil {
		return sample{}, err
	}
	pid, err := f.pid(ctx, s)
	if err != nil {
		return sample{}, err
	}
	if err := s.verify(ctx, f.lab.a, pid); err != nil {
		return sample{}, err
	}
	return f.result(out, first)
}

// dirOf is the container's directory; /run of a host is in memory.
func dirOf(s subject) string { return "/run/bench/" + s.id }

// bundle makes everything that a container needs before it is started.
func (f *floor) bundle(ctx context.Context, s subject) error {
	if err := f.lab.attach(ctx, f.lab.a, s, true); err != nil {
		return err
	}
	withNS := ""
	if f.lab.network == testbed.NetworkCNI {
		withNS = "--with-ns=network:" + s.netns()
	}
	out, err := script(ctx, f.lab.a, bundleScript, append([]string{dirOf(s), s.id, s.imageName(), withNS}, s.args()...)...)
	if err != nil {
		return err
	}
	spec, err := f.runcSpec(out, s)
	if err != nil {
		return err
	}
	return os.WriteFile(f.lab.a.Path(path.Join(dirOf(s), "config.json")), spec, 0o600)
}

// runcSpec moves the specification to a cgroup that containerd does not look after.
func (f *floor) runcSpec(printed string, s subject) ([]byte, error) {
	var spec map[string]any
	if err := json.Unmarshal([]byte(printed), &spec); err != nil {
		return nil, fmt.Errorf("decode the specification: %w", err)
	}
	linux, ok := spec["linux"].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the specification of %s is not of a Linux container", s.id)
	}
	linux["cgroupsPath"] = "/bench/" + s.id
	if f.skipLock {
		spec["annotations"] = map[string]string{"org.criu.config": skipConfig}
	}
	return json.Marshal(spec)
}

func (f *floor) start(ctx context.Context, s subject, out *pipe) error {
	if err := f.run(ctx, s, out); err != nil {
		return err
	}
	return eventually(ctx, s.id+" is ready", func() bool { return lastTick(parseTicks(out.text(), time.Now())) >= settledTick })
}

// run starts the container and does not wait until it is ready.
func (f *floor) run(ctx context.Context, s subject, out *pipe) error {
	err := f.command(ctx, out, "bash", "-euc",
		`runc --root /run/bench/runc --log $1/runc.log run --detach --bundle $1 $2 </dev/null 2>/dev/null`, "start", dirOf(s), s.id)
	if err != nil {
		return f.explain(ctx, s, err)
	}
	return nil
}

// command runs a command on host a, and what it starts, with the pipe as standard output.
func (f *floor) command(ctx context.Context, out *pipe, argv ...string) error {
	var stderr strings.Builder
	cmd := f.lab.a.Command(ctx, argv...)
	cmd.Stdout, cmd.Stderr = out.in, &stderr
	if err := cmd.Run(); err != nil {
		return rig.CommandError(ctx, f.lab.a, argv, err, stderr.String())
	}
	return nil
}

// explain adds runc's words, which it says in its log.
func (f *floor) explain(ctx context.Context, s subject, err error) error {
	said, _ := run(ctx, f.lab.a, "bash", "-c", `tail -n 3 $1/runc.log; grep -h Error $1/work/*.log | head -n 3`, "explain", dirOf(s))
	return fmt.Errorf("%w: %s", err, strings.TrimSpace(said))
}

func (f *floor) pid(ctx context.Context, s subject) (int, error) {
	out, err := run(ctx, f.lab.a, "runc", "--root", "/run/bench/runc", "state", s.id)
	if err != nil {
		return 0, err
	}
	var state struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(out), &state); err != nil || state.Pid == 0 {
		return 0, fmt.Errorf("runc knows no process of %s: %s", s.id, strconv.Quote(out))
	}
	return state.Pid, nil
}

// result reads the times off what was printed.
func (f *floor) result(out *pipe, first tick) (sample, error) {
	m := parseMarks(out.text())
	gap, err := silence(parseTicks(out.text(), time.Now()), first)
	if err != nil {
		return sample{}, err
	}
	m["running"] = first.at
	return sample{
		downtime: millis(first.at.Sub(m["begin"])),
		total:    millis(m["returned"].Sub(m["begin"])),
		gap:      millis(gap),
		steps:    m.steps("begin", "dumped", "running"),
	}, nil
}
