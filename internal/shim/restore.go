package shim

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	"migrate/internal/criu"
)

// phase is how far a restore has come. It only ever goes on.
type phase int

const (
	coming   phase = iota // CRIU is at work
	held                  // it waits for start
	released              // it goes on
	ending                // it is being made nothing of
	ended                 // there is nothing of it
)

// killed is the exit status of a process that ended by SIGKILL.
const killed = 128 + 9

// restore is one task's restore, from create until start has returned, or until what came to nothing is deleted.
type restore struct {
	id, namespace string
	request       *taskAPI.CreateTaskRequest
	bundle        *bundle

	holds chan criu.Event // the script's call at the point, once
	over  chan struct{}   // closed when runc has done or given up what it does; then started or err are valid
	gone  chan struct{}   // closed when the phase is ended; then status and at are valid

	started *taskAPI.StartResponse
	err     error
	status  uint32
	at      time.Time

	watching sync.WaitGroup

	mu                  sync.Mutex
	phase               phase
	init, criu, runtime *process // from the hold on
}

func newRestore(ctx context.Context, r *taskAPI.CreateTaskRequest) (*restore, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	b, err := arrange(ns, r)
	if err != nil {
		return nil, fmt.Errorf("prepare the restore: %w", err)
	}
	return &restore{
		id: r.ID, namespace: ns, request: r, bundle: b,
		holds: make(chan criu.Event, 1), over: make(chan struct{}), gone: make(chan struct{}),
	}, nil
}

// pid is that of the first process, 0 before the hold.
func (r *restore) pid() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.init == nil {
		return 0
	}
	return uint32(r.init.Pid)
}

// processes are those that are held on to, the first one of the task first.
func (r *restore) processes() []*process {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.init == nil {
		return nil
	}
	return []*process{r.init, r.criu, r.runtime}
}

// claim goes on to a phase, from one of others. Of several that try, one does.
func (r *restore) claim(to phase, from ...phase) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range from {
		if r.phase == f {
			r.phase = to
			return true
		}
	}
	return false
}

func (r *restore) now() phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.phase
}

// run has the stock service start the task, which is to restore it.
func (r *restore) run(stock taskAPI.TTRPCTaskService) {
	defer close(r.over)
	ctx := namespaces.WithNamespace(context.Background(), r.namespace)
	r.started, r.err = stock.Start(ctx, &taskAPI.StartRequest{ID: r.id})
}

// listen hears the script until the hook is closed.
func (r *restore) listen() {
	for ev := range r.bundle.hook.Events() {
		if ev.Action != r.bundle.point {
			continue
		}
		select {
		case r.holds <- ev:
		default: // it was called once
		}
	}
}

// errRanEarly is a restore that was not held.
var errRanEarly = errors.New("runc did not have CRIU call the script that holds the restore: does it read the annotation " + configAnnotation + "?")

// await returns when the restore is held, or why it will not be.
func (r *restore) await(ctx context.Context) error {
	select {
	case ev := <-r.holds:
		if err := r.hold(ev); err != nil {
			return fmt.Errorf("hold the restore: %w", err)
		}
		return nil
	case <-r.over:
		if r.err == nil {
			return errRanEarly
		}
		return r.explain(r.err)
	case <-ctx.Done():
		return fmt.Errorf("restore: %w", context.Cause(ctx))
	}
}

// hold takes hold of the processes, and notes them.
func (r *restore) hold(ev criu.Event) error {
	if err := r.takeHold(ev); err != nil {
		return err
	}
	left := &r.bundle.left
	left.Init, left.CRIU, left.Runtime = r.init.identity, r.criu.identity, r.runtime.identity
	var err error
	if left.Cgroups, err = cgroupsOf(ev.Pid, r.id); err != nil {
		return err
	}
	if err := left.write(r.bundle.path); err != nil {
		return err
	}
	if !r.claim(held, coming) {
		return errEnded
	}
	return nil
}

func (r *restore) takeHold(ev criu.Event) error {
	first, _, err := openProcess(ev.Pid)
	if err != nil {
		return err
	}
	tool, parent, err := openProcess(ev.CRIU)
	if err != nil {
		first.close()
		return err
	}
	runtime, _, err := openProcess(parent)
	if err != nil {
		first.close()
		tool.close()
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.init, r.criu, r.runtime = first, tool, runtime
	return nil
}

// errEnded is a restore that cannot go on any more.
var errEnded = fmt.Errorf("the restore was ended: %w", errdefs.ErrFailedPrecondition)

// release lets the restore go on, and returns when runc is done.
func (r *restore) release() (*taskAPI.StartResponse, error) {
	if !r.claim(released, held) {
		return nil, errEnded
	}
	if err := r.bundle.hook.Release(true); err != nil {
		return nil, errors.Join(err, r.finish(killed)) // CRIU would wait for ever
	}
	<-r.over
	if r.err != nil {
		return nil, errors.Join(r.explain(r.err), r.finish(killed))
	}
	return r.started, nil
}

// Time limits of an end.
const (
	undoPatience = time.Second      // in which CRIU takes back what it did; it does not when a process of the task has died
	killPatience = 10 * time.Second // in which runc ends that was killed
)

// end makes nothing of a restore that was not released, and says whether it was this call that did. It returns when nothing of it is left.
func (r *restore) end(status uint32) (mine bool, err error) {
	if !r.claim(ending, coming, held) {
		if r.now() == released {
			return false, r.busy()
		}
		<-r.gone
		return false, nil
	}
	if r.bundle.hook.Release(false) == nil {
		r.isOver(undoPatience) // what remains is killed
	}
	return true, r.finish(status)
}

// isOver says whether runc is done in time.
func (r *restore) isOver(limit time.Duration) bool {
	select {
	case <-r.over:
		return true
	case <-time.After(limit):
		return false
	}
}

// killAll ends the processes, the first one first: without CRIU it would run. Before the hold they are found by the bundle that runc was
// given.
func (r *restore) killAll() error {
	all := r.processes()
	for _, p := range all {
		p.kill()
	}
	if all == nil {
		return criu.KillUsers(r.bundle.path)
	}
	return nil
}

// finish takes away what is left of a restore that came to nothing.
func (r *restore) finish(status uint32) error {
	err := r.killRest()
	if err == nil {
		err = r.bundle.left.remove()
	}
	r.status, r.at = status, time.Now()
	r.mu.Lock()
	r.phase = ended
	r.mu.Unlock()
	close(r.gone)
	return err
}

func (r *restore) killRest() error {
	if err := r.killAll(); err != nil {
		return err
	}
	if !r.isOver(killPatience) {
		return errors.New("runc was killed and does not end")
	}
	if r.err != nil {
		return nil
	}
	// it was not held at all, and runs
	p, err := identity{Pid: int(r.started.Pid)}.find()
	p.kill()
	p.close()
	return err
}

// close lets go of what belongs to this process.
func (r *restore) close() error {
	r.watching.Wait()
	for _, p := range r.processes() {
		p.close()
	}
	return r.bundle.settle()
}

// explain adds what CRIU says to an error of runc's.
func (r *restore) explain(err error) error {
	err = errgrpc.ToNative(err)
	if c, cerr := criu.FirstCause(filepath.Join(r.bundle.left.Work, "restore.log")); cerr == nil {
		return fmt.Errorf("%w: %s", err, c)
	}
	return err
}

// busy refuses what cannot be done to a task that is being restored.
func (r *restore) busy() error {
	return fmt.Errorf("task %s is being restored: %w", r.id, errdefs.ErrFailedPrecondition)
}
