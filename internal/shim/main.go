package shim

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"migrate/internal/shim/sign"
)

// Main is the program.
func Main() {
	finish, err := adapt(os.Args[1:])
	if err == nil {
		registry.Register(&plugin.Registration{
			Type: plugins.TTRPCPlugin, ID: "task", Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin}, InitFn: initService,
		})
		shim.RunShim(context.Background(), newManager()) // ends the program when it fails
		err = finish()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s", sign.Name, err)
		os.Exit(1)
	}
}

// initService makes the task service with the stock one in it.
func initService(ic *plugin.InitContext) (any, error) {
	p, err := ic.GetByID(plugins.EventPlugin, "publisher")
	if err != nil {
		return nil, err
	}
	sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	s := newService(ic.Context, p.(shim.Publisher))
	s.TTRPCTaskService, err = task.NewTaskService(ic.Context, s.events, sd.(shutdown.Service))
	if err != nil {
		return nil, fmt.Errorf("make the stock task service: %w", err)
	}
	return s, nil
}
