package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"golang.org/x/sys/unix"
)

const (
	taskID    = "web"
	namespace = "moby"
)

// recorder is the engine's end of events.
type recorder struct {
	mu   sync.Mutex
	said []string
}

func (r *recorder) Publish(ctx context.Context, topic string, e events.Event) error {
	pid := uint32(0)
	switch e := e.(type) {
	case *eventstypes.TaskCreate:
		pid = e.Pid
	case *eventstypes.TaskStart:
		pid = e.Pid
	case *eventstypes.TaskExit:
		pid = e.Pid
	case *eventstypes.TaskDelete:
		pid = e.Pid
	}
	if _, err := namespaces.NamespaceRequired(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, fmt.Sprintf("%s %d", topic[strings.LastIndex(topic, "/")+1:], pid))
	return nil
}

func (r *recorder) Close() error { return nil }

// want waits for exactly these events, of which every one has the pid. A while later there must be no others.
func (r *recorder) want(t *testing.T, pid uint32, topics ...string) {
	t.Helper()
	time.Sleep(50 * time.Millisecond)
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, topic := range topics {
		all = append(all, fmt.Sprintf("%s %d", topic, pid))
	}
	if strings.Join(r.said, ", ") != strings.Join(all, ", ") {
		t.Errorf("events: %q, want %q", r.said, all)
	}
}

// stockService does what of the stock service matters to a restore. Its runc and CRIU are shells, and the task is a sleep.
type stockService struct {
	taskAPI.TTRPCTaskService // what else there is must not be asked
	t                        *testing.T
	dir                      string
	events                   events.Publisher
	bundle                   string
	deaf                     bool   // CRIU calls no script
	script                   string // of CRIU beside the calls of action scripts: "before" and "after" the hold, see criuScript

	mu      sync.Mutex
	deleted int
	pid     uint32
}

// criuScript is CRIU. $1 is the action script, $2 where the task's pid is written, $3 what is done before the hold, $4 after.
const criuScript = `
sleep 1000 & init=$!
echo $init >"$2"
eval "$3"
for action in pre-restore setup-namespaces post-setup-namespaces post-restore; do
	[ -z "$1" ] || CRTOOLS_SCRIPT_ACTION=$action CRTOOLS_INIT_PID=$init "$1" || { kill -9 $init; exit 1; }
	[ $action != setup-namespaces ] || eval "$4"
done
`

func (s *stockService) publish(e any) {
	ctx := namespaces.WithNamespace(context.Background(), namespace)
	if err := s.events.Publish(ctx, runtime.GetTopic(e), e); err != nil {
		s.t.Error(err)
	}
}

func (s *stockService) Create(_ context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	s.publish(&eventstypes.TaskCreate{ContainerID: r.ID, Checkpoint: r.Checkpoint})
	return &taskAPI.CreateTaskResponse{}, nil
}

// actionScript is that which CRIU would call first.
func (s *stockService) actionScript() string {
	var spec struct{ Annotations map[string]string }
	text, err := os.ReadFile(filepath.Join(s.bundle, "config.json"))
	if err == nil {
		err = json.Unmarshal(text, &spec)
	}
	if err != nil {
		s.t.Error(err)
	}
	config, err := os.ReadFile(spec.Annotations["org.criu.config"])
	if err != nil {
		s.t.Error(err)
	}
	all := regexp.MustCompile(`(?m)^action-script "(.*)"$`).FindAllStringSubmatch(string(config), -1)
	if len(all) == 0 || s.deaf {
		return ""
	}
	return all[len(all)-1][1]
}

func (s *stockService) pidFile() string { return filepath.Join(s.dir, "pid") }

func (s *stockService) Start(_ context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	before, after, _ := strings.Cut(s.script, "|")
	runc := exec.Command("sh", "-c", `sh -c "$1" criu "$2" "$3" "$4" "$5"; exit $?`, "runc", criuScript, s.actionScript(), s.pidFile(), before, after)
	runc.Args = append(runc.Args, "--bundle", s.bundle)
	if err := runc.Run(); err != nil {
		return nil, fmt.Errorf("restore: %w", err)
	}
	s.mu.Lock()
	s.pid = uint32(s.task())
	s.mu.Unlock()
	s.publish(&eventstypes.TaskStart{ContainerID: r.ID, Pid: s.pid})
	return &taskAPI.StartResponse{Pid: s.pid}, nil
}

// task is the pid of the task's process, 0 if there never was one.
func (s *stockService) task() int {
	text, err := os.ReadFile(s.pidFile())
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func (s *stockService) Delete(_ context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deleted++
	s.publish(&eventstypes.TaskDelete{ContainerID: r.ID, Pid: s.pid})
	return &taskAPI.DeleteResponse{Pid: s.pid}, nil
}

func (s *stockService) Connect(context.Context, *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	return &taskAPI.ConnectResponse{}, nil
}

func (s *stockService) Wait(context.Context, *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	return nil, errors.New("asked the stock service")
}

// bench is a service with a stock service that is none.
type bench struct {
	*service
	stock  *stockService
	events *recorder
}

// newBench makes one with a bundle, whose runtime makes the container a network namespace.
func newBench(t *testing.T, script string) *bench {
	t.Helper()
	b := &bench{events: &recorder{}}
	b.service = newService(t.Context(), b.events)
	b.stock = &stockService{t: t, dir: t.TempDir(), bundle: t.TempDir(), events: b.service.events, script: script}
	b.TTRPCTaskService = b.stock
	writeFile(t, filepath.Join(b.stock.bundle, "config.json"), `{"hostname":"h","linux":{"namespaces":[{"type":"network"}]}}`)
	t.Cleanup(func() {
		if pid := b.stock.task(); pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	})
	return b
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) create(t *testing.T) (*taskAPI.CreateTaskResponse, error) {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), namespace)
	return b.Create(ctx, &taskAPI.CreateTaskRequest{ID: taskID, Bundle: b.stock.bundle, Checkpoint: "/images"})
}

// held creates the task, whose restore must be held then.
func (b *bench) held(t *testing.T) (pid uint32) {
	t.Helper()
	res, err := b.create(t)
	if err != nil {
		t.Fatal(err)
	}
	if int(res.Pid) != b.stock.task() || res.Pid == 0 {
		t.Fatalf("create gives the pid %d, the task has %d", res.Pid, b.stock.task())
	}
	return res.Pid
}

// dead says whether a process ends soon.
func dead(pid int) bool {
	for range 300 {
		if !runs(pid) {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// runs tells a process from none, and from one that nobody has asked for.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(text), ") Z ")
}
