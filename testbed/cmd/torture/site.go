package main

import (
	"context"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// A site is a host with an agent that takes containers in for as long as the program runs.
type site struct {
	*testbed.Host
	agent *rig.Agent
}

func newSite(ctx context.Context, h *testbed.Host) (*site, error) {
	agent, err := rig.StartAgent(ctx, h, "--verbose")
	if err != nil {
		return nil, err
	}
	return &site{h, agent}, nil
}
