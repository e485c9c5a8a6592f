package matrix

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"migrate/testbed"
)

// Options say where workloads are moved.
type Options struct {
	Hosts   [2]*testbed.Host // containers start at the first
	Clients *testbed.Host    // where clients run
	Dir     string           // of the agents, in the hosts
	Port    int              // that the agents listen on
	// Docker is the generation of Docker that the hosts have and containers are run with; default: with containerd.
	Docker testbed.Docker
	// Address gives containers that have a network an address each; nil: the first host's network does.
	Address func() string
}

// A Lab is two hosts with an agent each.
type Lab struct {
	options Options
	engine  engine
	agents  [2]*agent
	count   atomic.Int64 // rows run, so that no two containers have the same name
}

// NewLab starts the agents. The caller closes the lab.
func NewLab(ctx context.Context, o Options) (*Lab, error) {
	l := &Lab{options: o, engine: engineOf(o.Docker)}
	if err := l.start(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) (err error) {
	for i, h := range l.options.Hosts {
		if l.agents[i], err = startAgent(ctx, h, l.options.Dir, l.options.Port); err != nil {
			return err
		}
	}
	return nil
}

// Close ends the agents. One that had ended before is an error.
func (l *Lab) Close() error {
	var errs []error
	for i, a := range l.agents {
		if a == nil {
			continue
		}
		if a.ended() {
			errs = append(errs, fmt.Errorf("host %s: migrate recv has ended: %s", a.host.Name, clip(a.said.text())))
		}
		a.stop()
		l.agents[i] = nil
	}
	return errors.Join(errs...)
}
