package scenarios

import (
	"fmt"
	"testing"

	"migrate/testbed"
)

// TestDiskFull has the engine of a host on a small file system, which is too small in various ways.
func TestDiskFull(t *testing.T) {
	r := chosen(t)
	mib := 96
	if r.dock != nil {
		mib = 200 // it keeps layers packed and unpacked for a while
	}
	disk := r.smallDisk(t, r.last, mib)
	to := startAgent(t, r.last)
	check := func(t *testing.T, s *subject) {
		t.Helper()
		s.assertStayed(t, r.a, r.last)
		assertNothingUnderWay(t, r.last, to.dir)
		if out := r.halfWay(t, r.last); out != "" {
			t.Errorf("content is left half-way:\n%s", out)
		}
		s.finish(t)
	}
	t.Run("image", func(t *testing.T) {
		shell(t, r.last, `head -c "$2"M /dev/zero >"$1/ballast"`, disk, fmt.Sprint(mib-6))
		s := runServer(t, r.a, "full-image", serverFlags{memory: 1})
		send(t, r.a, s.id, to).failed(t, 9, "destination", "free disk")
		run(t, r.last, "rm", disk+"/ballast")
		check(t, s)
	})
	t.Run("files known before", func(t *testing.T) {
		s := runServer(t, r.a, "full-files", serverFlags{memory: 1, files: (mib + 4) << 10, noClient: true})
		checkSpace(t, r.a, s, to)
		send(t, r.a, s.id, to).failed(t, 9, "destination", "free disk")
		check(t, s)
		engineFailsFull(t, r, s)
	})
	t.Run("during sync", func(t *testing.T) {
		s := runServer(t, r.a, "full-sync", serverFlags{memory: 1, files: 12 << 10})
		m := send(t, r.a, s.id, to, "--bandwidth", "4MiB")
		eventually(t, later, "files arrive", func() bool {
			return m.ended() || exitCode(r.last.Command(t.Context(), "sh", "-c", "find "+disk+" -name '.*ballast*' -o -name ballast | grep -q .").Run()) == 0
		})
		_, _ = try(r.last, "sh", "-c", fmt.Sprintf("head -c %dM /dev/zero >%s/filler", 2*mib, disk))
		m.failed(t, 9, "destination", "free disk", "never stopped")
		run(t, r.last, "rm", disk+"/filler")
		check(t, s)
	})
	t.Run("enough after all", func(t *testing.T) {
		s := runServer(t, r.a, "full-not", serverFlags{memory: 1})
		checkReport(t, send(t, r.a, s.id, to, "--json").moved(t))
		s.assertMoved(t, r.a, r.last)
		s.finish(t)
		r.purgeAt(t, r.last, s.id)
	})
}

// smallDisk gives a host's engine a small disk without any images, until the test ends. Docker keeps its networks there, too.
func (r *rig) smallDisk(t *testing.T, h *testbed.Host, mib int) string {
	t.Helper()
	disk := "/var/lib/containerd"
	if r.dock != nil {
		disk = "/var/lib/docker"
	}
	r.killDaemon(t, h)
	shell(t, h, `mkdir -p /run/scn/networks; ! [ -e "$1/network" ] || cp -a "$1/network" /run/scn/networks
		mount -t tmpfs -o "size=$2m" small "$1"; mv /run/scn/networks/* "$1" 2>/dev/null || true; rmdir /run/scn/networks`, disk, fmt.Sprint(mib))
	t.Cleanup(func() {
		r.killDaemon(t, h)
		if out, err := try(h, "umount", disk); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		r.startDaemon(t, h)
	})
	r.startDaemon(t, h)
	return disk
}

// halfWay is content that the engine of a host has begun to take in.
func (r *rig) halfWay(t *testing.T, h *testbed.Host) string {
	t.Helper()
	if r.dock == nil {
		return run(t, h, "sh", "-c", "ctr content active | tail -n +2")
	}
	return run(t, h, "sh", "-c", "find /var/lib/docker/tmp /var/lib/docker/image/overlay2/layerdb/tmp -mindepth 1 2>/dev/null || true")
}

// TestBandwidth moves a larger container over a limited link, with a limit of our own below it.
func TestBandwidth(t *testing.T) {
	const id = "bandwidth"
	if err := hostA.SetRate("1gbit"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = hostA.SetRate("none") })
	s := runServer(t, hostA, id, serverFlags{memory: 100})
	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json", "--bandwidth", "50MiB", "--compress", "none").moved(t)
	checkReport(t, rep)
	if rep.Memory.Raw < 100<<20 || rep.Memory.Wire < 100<<20 {
		t.Errorf("memory %+v of a container with 100 MiB", rep.Memory)
	}
	if rep.TotalMS < 1900 {
		t.Errorf("100 MiB were sent in %v ms with a limit of 50 MiB/s", rep.TotalMS)
	}
	s.assertMoved(t, hostA, hostB)
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}
