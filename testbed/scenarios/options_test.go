package scenarios

import (
	"context"
	"os"
	"strings"
	"testing"

	"migrate/internal/report"
	"migrate/testbed"
)

// TestName gives the container another id at the destination.
func TestName(t *testing.T) {
	t.Parallel()
	const id, name = "old-name", "new-name"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	t.Cleanup(func() { purge(t, name) })
	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json", "--name", name).moved(t)
	checkReport(t, rep)
	if rep.Container != id || rep.Name != name {
		t.Errorf("the report says %q became %q", rep.Container, rep.Name)
	}
	if got := status(t, hostB, name); got != "RUNNING" {
		t.Errorf("container %s is %q", name, got)
	}
	s.progressing(t)
	assertClean(t, hostA, id)
	if _, err := os.Stat(hostB.Path("/run/netns/" + name)); err != nil {
		t.Errorf("the network namespace has another name: %v", err)
	}
	if left := run(t, hostB, "ctr", "containers", "ls", "-q", "id=="+id); left != "" {
		t.Errorf("there is a container of the old name at the destination")
	}
	before := len(ticks(t, hostB, id))
	eventually(t, soon, "the output goes on", func() bool { return len(ticks(t, hostB, id)) > before })
	run(t, hostB, "rm", "-f", "/var/log/"+id+".log")
	assertUnlocked(t, hostB, name)
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestKeepSource keeps the container at the source, stopped. It can be started again there, once the other one is gone.
func TestKeepSource(t *testing.T) {
	t.Parallel()
	const id = "kept"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	to := startAgent(t, hostB)
	checkReport(t, send(t, hostA, id, to, "--json", "--keep-source").moved(t))
	s.progressing(t)
	if got := status(t, hostB, id); got != "RUNNING" {
		t.Errorf("the container is %q at the destination", got)
	}
	if got := status(t, hostA, id); got == "RUNNING" || got == "PAUSED" {
		t.Errorf("the container is %q at the source", got)
	}
	for what, argv := range map[string][]string{
		"record":   {"ctr", "containers", "info", id},
		"snapshot": {"ctr", "snapshots", "--snapshotter", "overlayfs", "info", id},
	} {
		if out, err := try(hostA, argv...); err != nil {
			t.Errorf("the %s was not kept: %v\n%s", what, err, out)
		}
	}
	if pids, err := try(hostA, "pgrep", "-f", "workload server.*--memory-mib 1 .*"+id); err == nil {
		t.Errorf("processes run at the source: %s", pids)
	}
	assertNothingUnderWay(t, hostA, sendDir(id))
	s.finish(t)
	purgeAt(t, hostB, id)
	run(t, hostA, "ctr", "tasks", "start", "--detach", id)
	if got := status(t, hostA, id); got != "RUNNING" {
		t.Errorf("the kept container is %q after it was started again", got)
	}
}

// TestTCPClose drops established connections; the container takes new ones.
func TestTCPClose(t *testing.T) {
	t.Parallel()
	const id = "tcp-close"
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json", "--tcp", "close").moved(t)
	checkReport(t, rep)
	eventually(t, later, "the client's connection ends", s.client.ended)
	s.connect(t)
	s.assertMoved(t, hostA, hostB)
	assertOutputWhole(t, id, hostB)
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestNoNetwork moves a container that has nothing but loopback, and uses it.
func TestNoNetwork(t *testing.T) {
	t.Parallel()
	const id = "no-network"
	s := runServer(t, hostA, id, serverFlags{memory: 4, dirty: 100, network: testbed.NetworkNone})
	to := startAgent(t, hostB)
	checkReport(t, send(t, hostA, id, to, "--json").moved(t))
	s.assertMoved(t, hostA, hostB)
	assertOutputWhole(t, id, hostB)
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestHostNetwork moves a container without established connections, and refuses one that has some.
func TestHostNetwork(t *testing.T) {
	t.Parallel()
	// ctr binds these into containers on the host's network
	to := startAgent(t, hostB, "--allow-mount", "/etc/hosts", "--allow-mount", "/etc/resolv.conf")
	t.Run("idle", func(t *testing.T) {
		const id = "host-idle"
		s := runServer(t, hostA, id, serverFlags{memory: 1, network: testbed.NetworkHost, noClient: true, listen: ":7091"})
		checkReport(t, send(t, hostA, id, to, "--json").moved(t))
		s.assertMoved(t, hostA, hostB)
		assertOutputWhole(t, id, hostB)
		s.addr = hostB.Addr().String() + ":7091"
		s.connect(t)
		s.finish(t)
	})
	t.Run("connected", func(t *testing.T) {
		const id = "host-connected"
		s := runServer(t, hostA, id, serverFlags{memory: 1, network: testbed.NetworkHost, noClient: true, listen: ":7092"})
		s.addr = hostA.Addr().String() + ":7092"
		s.connect(t)
		text := send(t, hostA, id, to).failed(t, 3, "established connections", "--tcp close")
		if !strings.Contains(text, "never stopped") {
			t.Errorf("the container was stopped:\n%s", text)
		}
		s.assertStayed(t, hostA, hostB)
		s.finish(t)
	})
	assertNothingUnderWay(t, hostB, to.dir)
}

// TestImages sends to a host that has half of the image's layers, then all of them, then none.
func TestImages(t *testing.T) {
	const image = "testbed/redis:latest"
	to := startAgent(t, hostD)
	t.Cleanup(func() { // other tests expect the images there
		again := testbed.Images{Names: testbed.ImageNames(), Hosts: []string{hostD.Name}, Workload: programs["workload"]}
		if err := bed.Import(context.Background(), again); err != nil {
			t.Error(err)
		}
	})
	move := func(t *testing.T, id string) *report.Report {
		s := runContainer(t, hostA, testbed.ContainerSpec{ID: id, Image: image, Network: testbed.NetworkCNI})
		eventually(t, soon, "redis answers", func() bool { _, err := try(hostC, "redis-cli", "-h", s.addr, "set", "where", "a"); return err == nil })
		rep := send(t, hostA, id, to, "--json").moved(t)
		checkReport(t, rep)
		s.assertMoved(t, hostA, hostD)
		if got := run(t, hostC, "redis-cli", "-h", s.addr, "get", "where"); got != "a" {
			t.Errorf("redis answers %q", got)
		}
		assertNothingUnderWay(t, hostD, to.dir)
		purgeAt(t, hostD, id)
		return rep
	}
	all := imageSize(t, image)
	removeImages(t, hostD, "redis")
	if half := move(t, "image-half").Image.Raw; half <= 0 || half >= all {
		t.Errorf("%d bytes of the image were sent where half of it was, of %d", half, all)
	} else if base := imageSize(t, "testbed/tools:latest"); half > all-base/2 {
		t.Errorf("%d bytes of the image were sent although the base layer was there; the image has %d", half, all)
	}
	if again := move(t, "image-there").Image.Raw; again != 0 {
		t.Errorf("%d bytes of an image were sent that was there", again)
	}
	removeImages(t, hostD, "testbed/")
	if left := run(t, hostD, "ctr", "content", "ls", "-q"); left != "" {
		t.Fatalf("content is left after all images were removed:\n%s", left)
	}
	if raw := move(t, "image-none").Image.Raw; raw != all {
		t.Errorf("%d bytes of the image were sent where none of it was; it has %d", raw, all)
	}
}

// imageSize adds up all blobs of an image at host a.
func imageSize(t *testing.T, image string) int64 {
	t.Helper()
	var total int64
	out := shell(t, hostA, `ctr images export --local /tmp/size.tar "$1"; tar -tvf /tmp/size.tar | awk '/blobs\/sha256\/./ { n += $3 } END { printf "%d", n }'; rm /tmp/size.tar`, image)
	for _, c := range out {
		total = total*10 + int64(c-'0')
	}
	return total
}

func removeImages(t *testing.T, h *testbed.Host, with string) {
	t.Helper()
	shell(t, h, `ctr images ls -q | grep -F "$1" | xargs -r ctr images rm --sync >/dev/null`, with)
}
