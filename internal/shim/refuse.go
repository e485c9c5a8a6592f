package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// What needs a process that is whole is refused while it is being restored. The stock service would have callers wait.

// unless calls f unless the task is being restored.
func unless[Q, A any](ctx context.Context, s *service, id string, req Q, f func(context.Context, Q) (A, error)) (A, error) {
	if r := s.of(id, ""); r != nil {
		var none A
		return none, errgrpc.ToGRPC(r.busy())
	}
	return f(ctx, req)
}

// Exec implements the task service.
func (s *service) Exec(ctx context.Context, req *taskAPI.ExecProcessRequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.Exec)
}

// Pause implements the task service.
func (s *service) Pause(ctx context.Context, req *taskAPI.PauseRequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.Pause)
}

// Resume implements the task service.
func (s *service) Resume(ctx context.Context, req *taskAPI.ResumeRequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.Resume)
}

// Checkpoint implements the task service.
func (s *service) Checkpoint(ctx context.Context, req *taskAPI.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.Checkpoint)
}

// Update implements the task service.
func (s *service) Update(ctx context.Context, req *taskAPI.UpdateTaskRequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.Update)
}

// ResizePty implements the task service.
func (s *service) ResizePty(ctx context.Context, req *taskAPI.ResizePtyRequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.ResizePty)
}

// CloseIO implements the task service.
func (s *service) CloseIO(ctx context.Context, req *taskAPI.CloseIORequest) (*emptypb.Empty, error) {
	return unless(ctx, s, req.ID, req, s.TTRPCTaskService.CloseIO)
}
