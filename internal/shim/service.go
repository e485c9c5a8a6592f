package shim

import (
	"context"
	"errors"
	"sync"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// service is the task service. What it does not do itself, the stock one does, which is in it.
type service struct {
	taskAPI.TTRPCTaskService
	events *sieve
	usage  *usage

	mu       sync.Mutex
	restores map[string]*restore
}

// newService makes a service that lacks the stock one.
func newService(ctx context.Context, p shim.Publisher) *service {
	s := newSieve(p)
	return &service{events: s, usage: newUsage(ctx, p), restores: map[string]*restore{}}
}

// RegisterTTRPC implements shim.TTRPCService.
func (s *service) RegisterTTRPC(server *ttrpc.Server) error {
	taskAPI.RegisterTTRPCTaskService(server, s)
	return nil
}

// of is the restore of a task that is under way, or came to nothing. A process that was added to a task has none.
func (s *service) of(id, exec string) *restore {
	s.mu.Lock()
	defer s.mu.Unlock()
	if exec != "" {
		return nil
	}
	return s.restores[id]
}

func (s *service) set(id string, r *restore) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r == nil {
		delete(s.restores, id)
	} else {
		s.restores[id] = r
	}
}

// Create makes a task, and restores it if there is a checkpoint.
func (s *service) Create(ctx context.Context, req *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	var err error
	if req.Options, err = translate(req.Options); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if req.Checkpoint == "" {
		s.events.show(req.ID)
		return s.TTRPCTaskService.Create(ctx, req)
	}
	r, err := newRestore(ctx, req)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.events.hide(r.id)
	if _, err := s.TTRPCTaskService.Create(ctx, req); err != nil {
		return nil, errgrpc.ToGRPC(errors.Join(errgrpc.ToNative(err), r.close()))
	}
	s.set(r.id, r)
	go r.listen()
	go r.run(s.TTRPCTaskService)
	if err := r.await(ctx); err != nil {
		return nil, errgrpc.ToGRPC(errors.Join(err, s.abandon(context.WithoutCancel(ctx), r)))
	}
	s.announce(r)
	r.watching.Go(func() {
		if err := r.watch(func() error { return s.cut(r, killed) }); err != nil {
			log.G(ctx).WithError(err).WithField("id", r.id).Error("end a restore")
		}
	})
	return &taskAPI.CreateTaskResponse{Pid: r.pid()}, nil
}

// abandon takes away a task whose creation failed.
func (s *service) abandon(ctx context.Context, r *restore) error {
	if _, err := r.end(killed); err != nil {
		return err
	}
	_, err := s.remove(ctx, r)
	return err
}

// remove has the stock service delete the task of a restore that came to nothing.
func (s *service) remove(ctx context.Context, r *restore) (*taskAPI.DeleteResponse, error) {
	// or runc would delete what is mounted below its directory
	if err := r.bundle.left.remove(); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	res, err := s.TTRPCTaskService.Delete(ctx, &taskAPI.DeleteRequest{ID: r.id})
	if err != nil {
		return nil, err
	}
	s.set(r.id, nil)
	if err := errors.Join(r.bundle.left.removeCgroups(), r.close()); err != nil {
		log.G(ctx).WithError(err).WithField("id", r.id).Warn("tidy up after a restore")
	}
	res.Pid, res.ExitStatus, res.ExitedAt = r.pid(), r.status, protobuf.ToTimestamp(r.at)
	return res, nil
}

// announce says that the task is there.
func (s *service) announce(r *restore) {
	q := r.request
	s.events.say(r, &eventstypes.TaskCreate{
		ContainerID: r.id, Bundle: q.Bundle, Rootfs: q.Rootfs, Checkpoint: q.Checkpoint, Pid: r.pid(),
		IO: &eventstypes.TaskIO{Stdin: q.Stdin, Stdout: q.Stdout, Stderr: q.Stderr, Terminal: q.Terminal},
	})
	s.events.show(r.id)
}

// cut ends a restore that is held, and tells that its process has exited. That a start failed, its caller knows.
func (s *service) cut(r *restore, status uint32) error {
	mine, err := r.end(status)
	if mine {
		s.events.say(r, &eventstypes.TaskExit{ContainerID: r.id, ID: r.id, Pid: r.pid(), ExitStatus: r.status, ExitedAt: protobuf.ToTimestamp(r.at)})
	}
	return err
}

// Start lets a held restore go on.
func (s *service) Start(ctx context.Context, req *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	r := s.of(req.ID, "")
	if r == nil {
		return s.TTRPCTaskService.Start(ctx, req)
	}
	if req.ExecID != "" {
		return nil, errgrpc.ToGRPC(r.busy())
	}
	started, err := r.release()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	s.set(r.id, nil)
	if err := errors.Join(r.close(), s.usage.add(r.id, int(started.Pid))); err != nil {
		log.G(ctx).WithError(err).WithField("id", r.id).Warn("tidy up after a restore") // it runs
	}
	return started, nil
}

// Kill ends a held restore, whatever the signal: the process would get it before it is what it was.
func (s *service) Kill(ctx context.Context, req *taskAPI.KillRequest) (*emptypb.Empty, error) {
	r := s.of(req.ID, req.ExecID)
	if r == nil {
		return s.TTRPCTaskService.Kill(ctx, req)
	}
	if req.Signal == 0 {
		return &emptypb.Empty{}, nil
	}
	if r.now() == released { // its watch sees to the rest
		r.init.kill()
		return &emptypb.Empty{}, nil
	}
	if err := s.cut(r, 128+req.Signal); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &emptypb.Empty{}, nil
}

// Delete takes a task away.
func (s *service) Delete(ctx context.Context, req *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	r := s.of(req.ID, req.ExecID)
	if r == nil {
		res, err := s.TTRPCTaskService.Delete(ctx, req)
		if err == nil && req.ExecID == "" {
			s.usage.remove(req.ID)
		}
		return res, err
	}
	if err := s.cut(r, killed); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	res, err := s.remove(ctx, r)
	if err != nil {
		return nil, err
	}
	s.events.say(r, &eventstypes.TaskDelete{ContainerID: r.id, Pid: res.Pid, ExitStatus: res.ExitStatus, ExitedAt: res.ExitedAt})
	return res, nil
}

// Connect tells containerd the pid.
func (s *service) Connect(ctx context.Context, req *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	res, err := s.TTRPCTaskService.Connect(ctx, req)
	if r := s.of(req.ID, ""); r != nil && err == nil {
		res.TaskPid = r.pid()
	}
	return res, err
}

// State answers for a restore; the stock service would wait until it is over.
func (s *service) State(ctx context.Context, req *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	r := s.of(req.ID, req.ExecID)
	if r == nil {
		return s.TTRPCTaskService.State(ctx, req)
	}
	q := r.request
	res := &taskAPI.StateResponse{
		ID: r.id, Bundle: q.Bundle, Pid: r.pid(), Status: task.Status_CREATED,
		Stdin: q.Stdin, Stdout: q.Stdout, Stderr: q.Stderr, Terminal: q.Terminal,
	}
	if r.now() == ended {
		res.Status, res.ExitStatus, res.ExitedAt = task.Status_STOPPED, r.status, protobuf.ToTimestamp(r.at)
	}
	return res, nil
}

// Wait waits for the end of the restore, or of what became of it.
func (s *service) Wait(ctx context.Context, req *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	r := s.of(req.ID, req.ExecID)
	if r == nil {
		return s.TTRPCTaskService.Wait(ctx, req)
	}
	select {
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	case <-r.gone:
	case <-r.over:
		if r.err == nil && r.now() == released {
			return s.TTRPCTaskService.Wait(ctx, req)
		}
		<-r.gone
	}
	return &taskAPI.WaitResponse{ExitStatus: r.status, ExitedAt: protobuf.ToTimestamp(r.at)}, nil
}

// Pids lists the first process of a restore; what else there is, CRIU is just making.
func (s *service) Pids(ctx context.Context, req *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	if r := s.of(req.ID, ""); r != nil {
		return &taskAPI.PidsResponse{Processes: []*task.ProcessInfo{{Pid: r.pid()}}}, nil
	}
	return s.TTRPCTaskService.Pids(ctx, req)
}

// Stats knows the cgroups of restored tasks.
func (s *service) Stats(ctx context.Context, req *taskAPI.StatsRequest) (*taskAPI.StatsResponse, error) {
	stats, err := s.usage.stats(req.ID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if stats == nil {
		return s.TTRPCTaskService.Stats(ctx, req)
	}
	return &taskAPI.StatsResponse{Stats: stats}, nil
}
