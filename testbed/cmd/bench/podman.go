package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"migrate/testbed"
)

// A podman moves containers as Podman's manual tells: checkpoint into an archive, copy, restore from the archive.
//
// It is favoured where there was a choice: everything that it stores is in memory, the archive is not compressed, which
// takes it longer than the link, nor are the container's files in it, the image is at the destination already, and so
// is the network namespace; the copy goes through the fastest cipher that ssh has.
type podman struct{ lab *lab }

func (*podman) name() string { return toolPodman }
func (*podman) mode() string { return "checkpoint-export" }
func (*podman) stop()        {}

// podmanFunction is for scripts. It keeps the storage off the hosts' overlay, which cannot have another one above it.
// CRIU support of crun is not in every build, so the runtime is runc, as for the other tools.
const podmanFunction = `
podman() {
	PODMAN_IGNORE_CGROUPSV1_WARNING=1 command podman --root /run/bench/podman/root --runroot /run/bench/podman/run \
		--storage-driver overlay --cgroup-manager cgroupfs --events-backend none --runtime runc "$@"
}
`

const (
	loadScript = podmanFunction + `
archive=/run/bench/image.tar
mkdir -p /run/bench
ctr images export --local --platform $2 $archive $1
podman load --quiet --input $archive >/dev/null
rm $archive
`
	podmanRunScript = podmanFunction + `
id=$1 network=$2 log=$3 image=$4
shift 4
podman run --detach --pull never --name $id --network $network --log-driver k8s-file --log-opt path=$log $image "$@" >/dev/null
`
	podmanExportScript = markFunction + podmanFunction + copyFunction + `
id=$1 archive=/run/bench/$1.tar
mark begin
podman container checkpoint --export $archive --compress none --tcp-established --ignore-rootfs --ignore-volumes $id >/dev/null
mark checkpoint
copy $archive
mark copy
stat -c 'size %s' $archive
rm $archive
`
	podmanImportScript = markFunction + podmanFunction + `
id=$1 archive=/run/bench/$1.tar
mark start
podman container restore --import $archive --tcp-established --ignore-rootfs --ignore-volumes >/dev/null
mark restore
rm $archive
podman inspect --format 'pid {{.State.Pid}}' $id
podman inspect --format 'log {{.HostConfig.LogConfig.Path}}' $id
`
	podmanWipeScript = podmanFunction + `
podman rm --force --time 0 $1
rm -f /run/bench/$1.tar
`
)

// prepare gives both hosts the image that the other tools use.
func (p *podman) prepare(ctx context.Context) error {
	for _, h := range []*testbed.Host{p.lab.a, p.lab.b} {
		if _, err := script(ctx, h, loadScript, image, "linux/"+runtime.GOARCH); err != nil {
			return fmt.Errorf("load the image: %w", err)
		}
	}
	return nil
}

func (p *podman) move(ctx context.Context, s subject) (sample, error) {
	defer p.wipe(context.WithoutCancel(ctx), s)
	if err := p.start(ctx, s); err != nil {
		return sample{}, err
	}
	if err := p.lab.attach(ctx, p.lab.b, s, false); err != nil {
		return sample{}, err
	}
	if _, err := run(ctx, p.lab.b, "mkdir", "-p", "/run/bench"); err != nil {
		return sample{}, err
	}
	exported, err := script(ctx, p.lab.a, podmanExportScript, s.id)
	if err != nil {
		return sample{}, err
	}
	imported, err := script(ctx, p.lab.b, podmanImportScript, s.id)
	if err != nil {
		return sample{}, err
	}
	pid, err := strconv.Atoi(wordAfter(imported, "pid"))
	if err != nil {
		return sample{}, fmt.Errorf("podman does not tell the container's process: %w", err)
	}
	if err := s.verify(ctx, p.lab.b, pid); err != nil {
		return sample{}, err
	}
	return p.result(ctx, s, exported, imported)
}

// start runs the container in Podman on host a.
func (p *podman) start(ctx context.Context, s subject) error {
	if err := p.lab.attach(ctx, p.lab.a, s, true); err != nil {
		return err
	}
	network := "none"
	if p.lab.network == testbed.NetworkCNI {
		network = "ns:" + s.netns()
	}
	if _, err := script(ctx, p.lab.a, podmanRunScript, append([]string{s.id, network, s.log(), image}, s.args()...)...); err != nil {
		return err
	}
	return eventually(ctx, s.id+" is ready", func() bool { return lastTick(readTicks(p.lab.a, s)) >= settledTick })
}

// result takes the downtime until the first line of the restored program, or until podman returned if that was earlier.
func (p *podman) result(ctx context.Context, s subject, exported, imported string) (sample, error) {
	m := parseMarks(exported + imported)
	var after []tick
	err := eventually(ctx, "the program prints after the move", func() bool {
		text, _ := os.ReadFile(p.lab.b.Path(wordAfter(imported, "log")))
		after = parseTicks(string(text), time.Now())
		return len(after) > 0
	})
	if err != nil {
		return sample{}, err
	}
	gap, err := silence(readTicks(p.lab.a, s), after[0])
	if err != nil {
		return sample{}, err
	}
	r := sample{
		total: millis(m["restore"].Sub(m["begin"])), gap: millis(gap),
		steps: m.steps("begin", "checkpoint", "copy", "start", "restore"),
	}
	r.downtime = min(r.total, millis(after[0].at.Sub(m["begin"])))
	if r.wire, err = strconv.ParseInt(wordAfter(exported, "size"), 10, 64); err != nil {
		return r, fmt.Errorf("read the archive's size: %w", err)
	}
	return r, nil
}

// wipe removes the container from Podman; its network is left to the lab.
func (p *podman) wipe(ctx context.Context, s subject) {
	for _, h := range []*testbed.Host{p.lab.a, p.lab.b} {
		_, _ = run(ctx, h, "bash", "-c", podmanWipeScript, "wipe", s.id) // it is there on one of them at most, after a failure on none
	}
}

// wordAfter finds the line of what was printed that has two words, the first of them that one, and returns the second.
func wordAfter(text, first string) string {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == first {
			return f[1]
		}
	}
	return ""
}
