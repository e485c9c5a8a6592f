package scenarios

import (
	"context"
	"testing"

	"migrate/testbed"
)

// TestDiskFull has host d's engine on a small file system, which is too small in various ways.
func TestDiskFull(t *testing.T) {
	smallDisk(t, hostD, "96m")
	to := startAgent(t, hostD)
	check := func(t *testing.T, s *subject) {
		t.Helper()
		s.assertStayed(t, hostA, hostD)
		assertNothingUnderWay(t, hostD, to.dir)
		if out := run(t, hostD, "sh", "-c", "ctr content active | tail -n +2"); out != "" {
			t.Errorf("content is left half-way:\n%s", out)
		}
		s.finish(t)
	}
	t.Run("image", func(t *testing.T) {
		shell(t, hostD, `head -c 90M /dev/zero >/var/lib/containerd/ballast`)
		s := runServer(t, hostA, "full-image", serverFlags{memory: 1})
		send(t, hostA, s.id, to).failed(t, 9, "destination", "free disk")
		run(t, hostD, "rm", "/var/lib/containerd/ballast")
		check(t, s)
	})
	t.Run("files known before", func(t *testing.T) {
		s := runServer(t, hostA, "full-files", serverFlags{memory: 1, files: 100 << 10, noClient: true})
		checkSpace(t, s, to)
		send(t, hostA, s.id, to).failed(t, 9, "destination", "free disk")
		check(t, s)
		engineFailsFull(t, s)
	})
	t.Run("during sync", func(t *testing.T) {
		s := runServer(t, hostA, "full-sync", serverFlags{memory: 1, files: 12 << 10})
		m := send(t, hostA, s.id, to, "--bandwidth", "4MiB")
		eventually(t, later, "files arrive", func() bool {
			return m.ended() || exitCode(hostD.Command(t.Context(), "sh", "-c", "find /var/lib/containerd -name '.*ballast*' -o -name ballast | grep -q .").Run()) == 0
		})
		_, _ = try(hostD, "sh", "-c", "head -c 200M /dev/zero >/var/lib/containerd/filler")
		m.failed(t, 9, "destination", "free disk", "never stopped")
		run(t, hostD, "rm", "/var/lib/containerd/filler")
		check(t, s)
	})
	t.Run("enough after all", func(t *testing.T) {
		s := runServer(t, hostA, "full-not", serverFlags{memory: 1})
		checkReport(t, send(t, hostA, s.id, to, "--json").moved(t))
		s.assertMoved(t, hostA, hostD)
		s.finish(t)
		purgeAt(t, hostD, s.id)
	})
}

// smallDisk gives a host's containerd a small disk without any images, until the test ends.
func smallDisk(t *testing.T, h *testbed.Host, size string) {
	t.Helper()
	if err := h.KillDaemon(t.Context(), "containerd"); err != nil {
		t.Fatal(err)
	}
	run(t, h, "mount", "-t", "tmpfs", "-o", "size="+size, "small", "/var/lib/containerd")
	if err := h.StartDaemon(t.Context(), "containerd"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { restoreDisk(t, h) })
}

func restoreDisk(t *testing.T, h *testbed.Host) {
	ctx, cancel := context.WithTimeout(context.Background(), later) // the test's own is over
	defer cancel()
	if err := h.KillDaemon(ctx, "containerd"); err != nil {
		t.Error(err)
	}
	if out, err := try(h, "umount", "/var/lib/containerd"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := h.StartDaemon(ctx, "containerd"); err != nil {
		t.Error(err)
	}
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
