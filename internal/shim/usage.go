package shim

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/oom"
	oomv1 "github.com/containerd/containerd/v2/pkg/oom/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// usage knows the cgroups of tasks that were restored: the stock service looks for a task's cgroup when it is created, and those had no
// process then. It gives their statistics, and tells when they run out of memory.
type usage struct {
	ctx       context.Context // of the program
	publisher shim.Publisher
	watcher   oom.Watcher // of version 1; made when it is needed

	mu     sync.Mutex
	groups map[string]any // *cgroup2.Manager or cgroup1.Cgroup
}

func newUsage(ctx context.Context, p shim.Publisher) *usage {
	return &usage{ctx: ctx, publisher: p, groups: map[string]any{}}
}

// add finds the cgroup of a task by its first process.
func (u *usage) add(id string, pid int) error {
	if cgroups.Mode() == cgroups.Unified {
		return u.addUnified(id, pid)
	}
	cg, err := cgroup1.Load(cgroup1.PidPath(pid))
	if err != nil {
		return fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	u.set(id, cg)
	if u.watcher == nil {
		if u.watcher, err = oomv1.New(u.publisher); err != nil {
			return fmt.Errorf("watch for lack of memory: %w", err)
		}
		go u.watcher.Run(u.ctx)
	}
	if err := u.watcher.Add(id, cg); err != nil {
		return fmt.Errorf("watch for lack of memory: %w", err)
	}
	return nil
}

func (u *usage) addUnified(id string, pid int) error {
	path, err := cgroup2.PidGroupPath(pid)
	if err != nil {
		return fmt.Errorf("find the cgroup of process %d: %w", pid, err)
	}
	m, err := cgroup2.Load(path)
	if err != nil {
		return fmt.Errorf("open the cgroup of process %d: %w", pid, err)
	}
	u.set(id, m)
	go u.watchUnified(id, m)
	return nil
}

// watchUnified tells of processes that the kernel kills for lack of memory, until the cgroup is empty.
func (u *usage) watchUnified(id string, m *cgroup2.Manager) {
	events, errs := m.EventChan()
	var kills uint64
	for {
		select {
		case ev := <-events:
			if ev.OOMKill > kills {
				kills = ev.OOMKill
				if err := u.publisher.Publish(u.ctx, runtime.TaskOOMEventTopic, &eventstypes.TaskOOM{ContainerID: id}); err != nil {
					log.G(u.ctx).WithError(err).WithField("id", id).Error("publish an event")
				}
			}
		case err := <-errs:
			if err != nil {
				log.G(u.ctx).WithError(err).WithField("id", id).Debug("watch for lack of memory")
			}
			return
		}
	}
}

func (u *usage) set(id string, group any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.groups[id] = group
}

func (u *usage) remove(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.groups, id)
}

// stats returns nil for a task that was not restored.
func (u *usage) stats(id string) (*anypb.Any, error) {
	u.mu.Lock()
	group := u.groups[id]
	u.mu.Unlock()
	var stats any
	var err error
	switch cg := group.(type) {
	case nil:
		return nil, nil
	case *cgroup2.Manager:
		stats, err = cg.Stat()
	case cgroup1.Cgroup:
		stats, err = cg.Stat(cgroup1.IgnoreNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("read the statistics of the cgroup: %w", err)
	}
	a, err := typeurl.MarshalAnyToProto(stats)
	if err != nil {
		return nil, fmt.Errorf("encode statistics: %w", err)
	}
	return a, nil
}
