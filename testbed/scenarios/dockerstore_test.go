package scenarios

import (
	"strconv"
	"strings"
	"testing"

	"migrate/internal/report"
	"migrate/testbed"
)

// dockerID is the id of the image that a container was made from.
func dockerID(t *testing.T, h *testbed.Host, name string) string {
	t.Helper()
	return run(t, h, "docker", "inspect", "--format", "{{.Image}}", name)
}

// storeMove moves a container of the test program and looks whether it goes on, with what it changed.
func storeMove(t *testing.T, name string, from, to *testbed.Host, at *agent) *report.Report {
	t.Helper()
	eventually(t, soon, "the container prints", func() bool { return dockerTicks(t, from, name) > 1 })
	rep := send(t, from, name, at, "--json").moved(t)
	t.Logf("%s from %s to %s: %d KiB of its image", name, from.Name, to.Name, rep.Image.Raw>>10)
	assertDocked(t, name, to, from)
	before := dockerTicks(t, to, name)
	eventually(t, soon, "the container goes on printing", func() bool { return dockerTicks(t, to, name) > before+2 })
	assertNothingUnderWay(t, to, at.dir)
	return rep
}

// storeFile checks a file of a container.
func storeFile(t *testing.T, h *testbed.Host, name, path, want string) {
	t.Helper()
	if got := run(t, h, "docker", "exec", name, "cat", path); got != want {
		t.Errorf("%s: %s of %s is %q, want %q", h.Name, path, name, got, want)
	}
}

// dockerStore is whether a host's Docker keeps images in containerd, by its own word.
func dockerStore(t *testing.T, h *testbed.Host) string {
	t.Helper()
	return run(t, h, "docker", "info", "--format", "{{.Driver}}")
}

// storeImage makes an image that only the first host has, whatever other tests bring to the others.
func storeImage(t *testing.T, d *dock, name string) string {
	t.Helper()
	made, image := name+"-made", name+":1"
	a := d.bed.Host("a")
	run(t, a, "docker", "create", "--name", made, "testbed/tools:latest")
	run(t, a, "docker", "commit", "--change", "LABEL made="+name, made, image)
	run(t, a, "docker", "rm", made)
	return image
}

// TestDockerStores moves a container round hosts that keep images in different ways: each to the other, and containerd's to one of the same kind. Its
// image is shipped to where it is not, and found again where it came from.
func TestDockerStores(t *testing.T) {
	t.Parallel()
	a, b := stores26.up(t)
	c := stores26.bed.Host("c")
	if dockerStore(t, a) != "overlay2" || dockerStore(t, b) != "overlayfs" || dockerStore(t, c) != "overlayfs" {
		t.Fatal("the hosts' storage is not as asked for")
	}
	const name = "store-ring"
	dockerRun(t, stores26, a, name, "--network", testbed.DockerNetwork, "--ip", stores26.address(60), storeImage(t, stores26, "store-image"), "workload", "server", "--memory-mib", "4")
	run(t, a, "docker", "exec", "--user", "root", name, "sh", "-c", "echo changed >/etc/changed; rm /usr/bin/yes")
	client := start(t, b, "workload", "client", "--addr", stores26.address(60)+":7000", "--duration", "0", "--timeout", "60s")
	ids := map[string]string{"a": dockerID(t, a, name)}
	agents := map[*testbed.Host]*agent{a: startAgent(t, a), b: startAgent(t, b), c: startAgent(t, c)}
	from := a
	for i, to := range []*testbed.Host{b, c, a, b} {
		rep := storeMove(t, name, from, to, agents[to])
		if came := rep.Image.Raw > 0; came != (to == b && i == 0 || to == c) {
			t.Errorf("on the way to %s %d bytes of the image came", to.Name, rep.Image.Raw)
		}
		if rep.Connections < 1 {
			t.Errorf("%d connections moved to %s, the client had one", rep.Connections, to.Name)
		}
		storeFile(t, to, name, "/etc/changed", "changed")
		if _, err := try(to, "docker", "exec", name, "test", "-e", "/usr/bin/yes"); err == nil {
			t.Errorf("%s: a file that was removed is there", to.Name)
		}
		if id := dockerID(t, to, name); ids[to.Name] == "" {
			ids[to.Name] = id
		} else if id != ids[to.Name] {
			t.Errorf("%s has the image %s now, and had %s", to.Name, id, ids[to.Name])
		}
		from = to
	}
	if ids["b"] != ids["c"] {
		t.Errorf("between stores of the same kind the image's id changed from %s to %s", ids["b"], ids["c"])
	}
	if code := signalled(t, client); code != 0 {
		t.Errorf("the client ends with status %d\n%s", code, client.stdout.String())
	}
	run(t, b, "docker", "restart", "--time", "0", name)
	storeFile(t, b, name, "/etc/changed", "changed")
}

// TestDockerStoreLayers has images grow on hosts that keep them in different ways: only the layers that are new are shipped, whether they are
// kept as they are or compressed.
func TestDockerStoreLayers(t *testing.T) {
	t.Parallel()
	a, b := stores26.up(t)
	toA, toB := startAgent(t, a), startAgent(t, b)
	server := []string{"workload", "server", "--listen=", "--memory-mib", "4"}
	dockerRun(t, stores26, a, "store-base", append([]string{"testbed/tools:latest"}, server...)...)
	storeMove(t, "store-base", a, b, toB) // from here on b has the layers
	whole := storeSize(t, a, "testbed/tools:latest")

	grow := func(from, to *testbed.Host, at *agent, base, name string) {
		t.Helper()
		run(t, from, "docker", "exec", "--user", "root", base, "sh", "-c", "echo "+name+" >/etc/"+name)
		run(t, from, "docker", "commit", base, name+":1")
		dockerRun(t, stores26, from, name, append([]string{name + ":1"}, server...)...)
		if rep := storeMove(t, name, from, to, at); rep.Image.Raw == 0 || rep.Image.Raw > whole/4 {
			t.Errorf("%d bytes of image %s came, of %d that its base has", rep.Image.Raw, name, whole)
		}
		storeFile(t, to, name, "/etc/"+name, name)
	}
	grow(b, a, toA, "store-base", "store-first")   // a compressed layer comes to where layers are kept as they are
	grow(a, b, toB, "store-first", "store-second") // and b has that layer in compressed form only
	storeFile(t, b, "store-second", "/etc/store-first", "store-first")
}

// storeSize is how large an image is, in bytes.
func storeSize(t *testing.T, h *testbed.Host, image string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(run(t, h, "docker", "image", "inspect", "--format", "{{.Size}}", image), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDockerStores28 has version 28 do the same, with the host's network.
func TestDockerStores28(t *testing.T) {
	t.Parallel()
	a, b := dock28.up(t)
	const name = "store28"
	dockerRun(t, dock28, a, name, "--network", "host", storeImage(t, dock28, "store-image"), "workload", "server", "--listen=", "--memory-mib", "4")
	run(t, a, "docker", "exec", "--user", "root", name, "sh", "-c", "echo changed >/etc/changed")
	toA, toB := startAgent(t, a), startAgent(t, b)
	id := dockerID(t, a, name)
	if rep := storeMove(t, name, a, b, toB); rep.Image.Raw == 0 {
		t.Error("nothing of the image came")
	}
	storeFile(t, b, name, "/etc/changed", "changed")
	if rep := storeMove(t, name, b, a, toA); rep.Image.Raw != 0 {
		t.Errorf("%d bytes of the image came back", rep.Image.Raw)
	}
	storeFile(t, a, name, "/etc/changed", "changed")
	if back := dockerID(t, a, name); back != id || !strings.HasPrefix(id, "sha256:") {
		t.Errorf("the image is %s now, and was %s", back, id)
	}
}
