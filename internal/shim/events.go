package shim

import (
	"context"
	"sync"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// sieve keeps back what the stock service says of restores that does not hold: that a task was created without a pid, and anything of a task of
// whose creation nobody has heard, since create failed. Engines act on events: one exit too many, and Docker takes the
// network from under a container that runs.
type sieve struct {
	shim.Publisher
	mu     sync.Mutex
	unseen map[string]bool // tasks that are being restored and were not announced
}

func newSieve(p shim.Publisher) *sieve { return &sieve{Publisher: p, unseen: map[string]bool{}} }

// hide keeps back everything about a task until it is announced.
func (s *sieve) hide(id string) { s.set(id, true) }

// show ends that.
func (s *sieve) show(id string) { s.set(id, false) }

func (s *sieve) set(id string, unseen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if unseen {
		s.unseen[id] = true
	} else {
		delete(s.unseen, id)
	}
}

// Publish implements events.Publisher for the stock service.
func (s *sieve) Publish(ctx context.Context, topic string, e events.Event) error {
	if s.keeps(e) {
		return nil
	}
	return s.Publisher.Publish(ctx, topic, e)
}

func (s *sieve) keeps(e events.Event) bool {
	id := ""
	switch e := e.(type) {
	case *eventstypes.TaskCreate:
		if e.Checkpoint != "" {
			return true // the service says it, when there is a pid
		}
		id = e.ContainerID
	case *eventstypes.TaskDelete:
		if e.Pid == 0 {
			return true // likewise
		}
		id = e.ContainerID
	case *eventstypes.TaskStart:
		id = e.ContainerID
	case *eventstypes.TaskExit:
		id = e.ContainerID
	case *eventstypes.TaskOOM:
		id = e.ContainerID
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unseen[id]
}

// say publishes what the service itself has to say of a restore.
func (s *sieve) say(r *restore, e events.Event) {
	ctx := namespaces.WithNamespace(context.Background(), r.namespace)
	if err := s.Publisher.Publish(ctx, runtime.GetTopic(e), e); err != nil {
		log.L.WithError(err).WithField("id", r.id).Error("publish an event") // the publisher tries again
	}
}
