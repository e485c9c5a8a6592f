package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"migrate/internal/criu"
	"migrate/testbed"
)

// A docked is a container of Docker to be moved, with a client.
type docked struct {
	subject
	address string // on the network that all hosts share
	mac     string
	client  *trafficClient
}

// docked is a container that has never been there before.
func (d *dock) docked(id string, mib int) *docked {
	s := &docked{subject: d.subject(id, mib)}
	s.dirty = dirtyPages(mib, d.dirty)
	host, n := d.a.Addr().As4(), 10+byte(s.seed%200)                       // others may still look for the one before elsewhere
	s.address = fmt.Sprintf("%d.%d.%d.%d", host[0], host[1], host[2]+1, n) // in the range of a's containers
	s.mac = fmt.Sprintf("02:42:00:00:00:%02x", n)
	return s
}

// options are those of docker run, and of docker create elsewhere.
func (s *docked) options() []string {
	return append([]string{"--name", s.id, "--network", testbed.DockerNetwork, "--ip", s.address, "--mac-address", s.mac, image}, s.args()...)
}

// changedFile is one that the container makes in its file system.
const changedFile = "/etc/changed"

// begin starts the container on host a, has it change a file, and starts its client on host c.
func (d *dock) begin(ctx context.Context, s *docked) (err error) {
	if _, err := run(ctx, d.a, append([]string{"docker", "run", "--detach"}, s.options()...)...); err != nil {
		return err
	}
	if _, err := run(ctx, d.a, "docker", "exec", "--user", "root", s.id, "sh", "-c", "echo changed >"+changedFile); err != nil {
		return err
	}
	if err := within(ctx, dockerPatience, s.id+" is ready", func() bool { return lastTick(d.ticks(ctx, d.a, s)) >= settledTick }); err != nil {
		return err
	}
	s.client, err = d.startClient(ctx, "request-reply", s.address+":7000")
	return err
}

// ticks are what the container has printed on a host.
func (d *dock) ticks(ctx context.Context, h *testbed.Host, s *docked) []tick {
	text, err := run(ctx, h, "docker", "logs", s.id)
	if err != nil {
		return nil
	}
	return parseTicks(text, time.Now())
}

// ticksAfter waits until the container prints on host b after a moment, and returns all that it has printed there.
func (d *dock) ticksAfter(ctx context.Context, s *docked, began time.Time) (list []tick, err error) {
	err = within(ctx, dockerPatience, "the program prints after the move", func() bool {
		list = d.ticks(ctx, d.b, s)
		return len(list) > 0 && list[len(list)-1].at.After(began)
	})
	return list, err
}

// verify has the program check its memory on host b.
func (d *dock) verify(ctx context.Context, s *docked) error {
	out, err := run(ctx, d.b, "docker", "inspect", "--format", "{{.State.Pid}}", s.id)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		return fmt.Errorf("docker does not tell the container's process: %w", err)
	}
	return s.subject.verify(ctx, d.b, pid)
}

// look finds out what the container has kept.
func (d *dock) look(ctx context.Context, s *docked) (k kept, err error) {
	if k, err = d.lookInside(ctx, s); err != nil {
		return k, err
	}
	before := s.client.last()
	for end := time.Now().Add(dockerPatience); time.Now().Before(end) && ctx.Err() == nil; time.Sleep(gapLeast) {
		now := s.client.last()
		if k.Connection = now.progress() > before.progress(); k.Connection || now.Errors > 0 {
			break
		}
	}
	return k, ctx.Err()
}

func (d *dock) lookInside(ctx context.Context, s *docked) (k kept, err error) {
	said, err := run(ctx, d.b, "docker", "exec", s.id, "sh", "-c", "cat "+changedFile+" 2>/dev/null || true")
	if err != nil {
		return k, err
	}
	list := d.ticks(ctx, d.b, s)
	k.File, k.Log = strings.TrimSpace(said) == "changed", len(list) > 0 && list[0].n == 1
	return k, nil
}

// remove ends the client and takes away whatever a move may have left of the container.
func (d *dock) remove(ctx context.Context, s *docked) {
	if s.client != nil {
		s.client.end()
	}
	for _, h := range []*testbed.Host{d.a, d.b} {
		// errors mean that there was nothing to remove
		_, _ = run(ctx, h, "bash", "-c", dockerWipeScript, "wipe", s.id)
	}
}

const (
	// keepConnections has CRIU dump and restore them, which Docker does not ask for.
	keepConnections = `mkdir -p /etc/criu && echo tcp-established >/etc/criu/runc.conf`

	// dockerPlaceScript creates the container at the destination and says where a checkpoint and its changed files belong.
	dockerPlaceScript = `
id=$(docker create "$@")
mkdir -p /var/lib/docker/containers/$id/checkpoints/hand
echo "checkpoint /var/lib/docker/containers/$id/checkpoints/hand"
echo "upper $(docker inspect --format '{{.GraphDriver.Data.UpperDir}}' $id)"
`
	// dockerLeaveScript stops the container with a checkpoint and copies that into its place in one go, with the container's changed files unless
	// there is no place for them. The cipher is one that the machine's processor knows.
	dockerLeaveScript = markFunction + `
id=$1 place=$2 upper=$3 work=/run/bench/$1
ours=$(docker inspect --format '{{.GraphDriver.Data.UpperDir}}' $id)
mkdir -p $work
mark begin
docker checkpoint create --checkpoint-dir $work $id hand >/dev/null
mark checkpoint
tar --create --absolute-names --xattrs --xattrs-include='*' --transform "s,^$work/hand,$place,;s,^$ours,$upper," $work/hand ${upper:+$ours} |
	ssh -c aes128-gcm@openssh.com b tar --extract --absolute-names --xattrs --xattrs-include="'*'"
mark copy
echo "size $(du --bytes --summarize --total $work/hand ${upper:+$ours} | awk 'END { print $1 }')"
`
	dockerArriveScript = markFunction + `
mark start
docker start --checkpoint hand $1 >/dev/null
mark restore
`
	dockerWipeScript = `
docker rm --force --volumes $1
rm -rf /run/bench/$1 /etc/criu/runc.conf
`
)

// byHand is what a person does who has no more than Docker. The container is created at the destination before.
func (d *dock) byHand(ctx context.Context, s *docked) (sample, error) {
	for _, h := range []*testbed.Host{d.a, d.b} {
		if _, err := script(ctx, h, keepConnections); err != nil {
			return sample{}, err
		}
	}
	place, err := script(ctx, d.b, dockerPlaceScript, s.options()...)
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	left, err := script(ctx, d.a, dockerLeaveScript, s.id, wordAfter(place, "checkpoint"), wordAfter(place, "upper"))
	if err != nil {
		return sample{}, err
	}
	arrived, err := script(ctx, d.b, dockerArriveScript, s.id)
	if err != nil {
		return sample{}, err
	}
	after, err := d.ticksAfter(ctx, s, began)
	if err != nil {
		return sample{}, err
	}
	return d.result(ctx, s, parseMarks(left+arrived), wordAfter(left, "size"), after[0])
}

// result takes the downtime until the first line of the restored program, or until docker returned if that was earlier.
func (d *dock) result(ctx context.Context, s *docked, m marks, size string, first tick) (sample, error) {
	gap, err := silence(d.ticks(ctx, d.a, s), first)
	if err != nil {
		return sample{}, err
	}
	r := sample{
		total: millis(m["restore"].Sub(m["begin"])), gap: millis(gap),
		steps: m.steps("begin", "checkpoint", "copy", "start", "restore"),
	}
	r.downtime = min(r.total, millis(first.at.Sub(m["begin"])))
	if r.wire, err = strconv.ParseInt(size, 10, 64); err != nil {
		return r, fmt.Errorf("read the size of what was copied: %w", err)
	}
	return r, nil
}

// alone looks what Docker's commands do by themselves: a container with a client first, which stays if it is refused, then without.
func (d *dock) alone(ctx context.Context, mib int) (*dockerAlone, error) {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	s := d.docked("docker-alone", mib)
	defer d.remove(context.WithoutCancel(ctx), s)
	if err := d.begin(ctx, s); err != nil {
		return nil, err
	}
	a := &dockerAlone{}
	if _, err := run(ctx, d.a, "docker", "checkpoint", "create", "--leave-running", s.id, "probe"); ctx.Err() != nil {
		return nil, ctx.Err()
	} else if err != nil {
		a.Refusal = d.reason(err)
		if err := d.stays(ctx, s); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(s.client.stdin.Close(), s.client.wait()); err != nil {
		return nil, fmt.Errorf("end the client: %w", err)
	}
	place, err := script(ctx, d.b, dockerPlaceScript, s.options()...)
	if err != nil {
		return nil, err
	}
	if _, err := script(ctx, d.a, dockerLeaveScript, s.id, wordAfter(place, "checkpoint"), ""); err != nil {
		return nil, err
	}
	if _, err := script(ctx, d.b, dockerArriveScript, s.id); err != nil {
		return nil, err
	}
	a.Kept, err = d.lookInside(ctx, s)
	return a, err
}

// stays says whether the client goes on after a checkpoint that failed.
func (d *dock) stays(ctx context.Context, s *docked) error {
	before := s.client.last()
	return eventually(ctx, "the client goes on after the checkpoint that failed", func() bool { return s.client.last().progress() > before.progress() })
}

// logOfCRIU is where Docker says that CRIU's is.
var logOfCRIU = regexp.MustCompile(`path= *(/\S+/criu-dump\.log)`)

// reason is what CRIU says of a checkpoint that failed on host a, or else Docker.
func (d *dock) reason(failed error) string {
	if m := logOfCRIU.FindStringSubmatch(failed.Error()); m != nil {
		if cause, err := criu.FirstCause(d.a.Path(m[1])); err == nil {
			return "CRIU: " + cause.Text
		}
	}
	return failed.Error()
}
