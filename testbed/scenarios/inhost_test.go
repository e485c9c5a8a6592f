package scenarios

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInsideAHost runs, inside a host, the tests that need an engine or CNI plugins beside them: the engines' conformance
// suite among them. They have the build tag inhost and are part of no other run.
func TestInsideAHost(t *testing.T) {
	for _, pkg := range []string{"cni", "criu", "engine/containerd"} {
		name := "inhost-" + filepath.Base(pkg)
		binary := filepath.Join(t.TempDir(), name)
		build := exec.Command("go", "test", "-c", "-tags", "inhost", "-o", binary, "migrate/internal/"+pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
		}
		if err := hostD.Install(binary, name); err != nil {
			t.Fatal(err)
		}
		out, err := try(hostD, "env", "MIGRATE_CONTAINERD_ADDRESS=/run/containerd/containerd.sock", "MIGRATE_CNI_BIN_DIR=/usr/lib/cni", name, "-test.v")
		if err != nil || strings.Contains(out, "--- SKIP") || !strings.Contains(out, "--- PASS") {
			t.Errorf("the tests of %s: %v\n%s", pkg, err, out)
		}
	}
}
