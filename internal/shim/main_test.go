package shim

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// asShim makes this program the shim.
const asShim = "MIGRATE_TEST_AS_SHIM"

func TestMain(m *testing.M) {
	if os.Getenv(asShim) != "" {
		Main()
		return
	}
	os.Exit(m.Run())
}

// TestStart has a shim started as containerd does, before 2.3 and from then on, and asks it something.
func TestStart(t *testing.T) {
	dir := t.TempDir()
	request, err := proto.Marshal(&bootapi.BootstrapParams{InstanceID: "new", Namespace: namespace, ContainerdGrpcAddress: dir, SocketDir: proto.String(dir), LogLevel: bootapi.LogLevel_LOG_LEVEL_INFO})
	if err != nil {
		t.Fatal(err)
	}
	for id, c := range map[string]struct {
		input   []byte
		address func(t *testing.T, said []byte) string
	}{
		"old": {nil, func(t *testing.T, said []byte) string {
			var a answer
			if err := json.Unmarshal(said, &a); err != nil || a.Version != 3 || a.Protocol != "ttrpc" {
				t.Errorf("%v: %q", err, said)
			}
			return a.Address
		}},
		"new": {request, func(t *testing.T, said []byte) string {
			var r bootapi.BootstrapResult
			if err := proto.Unmarshal(said, &r); err != nil || r.Version != 3 || r.Protocol != "ttrpc" {
				t.Errorf("%v: %q", err, said)
			}
			return r.Address
		}},
	} {
		t.Run(id, func(t *testing.T) {
			said := startShim(t, id, dir, c.input)
			address := c.address(t, said)
			askShim(t, address)
			if _, err := os.Stat(strings.TrimPrefix(address, "unix://")); !os.IsNotExist(err) {
				t.Errorf("the socket is left: %v", err)
			}
		})
	}
}

// startShim runs the program in a bundle, and returns its answer.
func startShim(t *testing.T, id, containerd string, input []byte) []byte {
	t.Helper()
	bundle := t.TempDir()
	writeFile(t, filepath.Join(bundle, "config.json"), "{}")
	log := filepath.Join(bundle, "log")
	if err := unix.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(log, os.O_RDWR, 0) // as containerd, which copies it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-namespace", namespace, "-address", containerd, "-publish-binary", "/usr/bin/containerd", "-id", id, "start")
	cmd.Dir, cmd.Stdin, cmd.Env = bundle, bytes.NewReader(input), append(os.Environ(), asShim+"=1", "TTRPC_ADDRESS="+containerd+"/none")
	said, err := cmd.CombinedOutput() // as containerd before 2.3
	if err != nil {
		t.Fatalf("start: %v: %s", err, said)
	}
	return said
}

// askShim asks for the pid, and has the shim end.
func askShim(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	c := ttrpc.NewClient(conn)
	defer c.Close()
	task := taskAPI.NewTTRPCTaskClient(c)
	res, err := task.Connect(t.Context(), &taskAPI.ConnectRequest{ID: taskID})
	if err != nil {
		t.Fatal(err)
	}
	shim, err := identity{Pid: int(res.ShimPid)}.find()
	if err != nil || shim == nil {
		t.Fatalf("the shim has the pid %d: %v", res.ShimPid, err)
	}
	defer shim.close()
	if _, err := task.Shutdown(t.Context(), &taskAPI.ShutdownRequest{ID: taskID}); err != nil {
		t.Log(err) // it may end before it answers
	}
	if !shim.await(deathLimit) {
		shim.kill()
		t.Error("the shim does not end")
	}
}
