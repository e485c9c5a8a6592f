package matrix

import (
	"context"
	"fmt"
	"strings"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

// A client is the container that uses the one that is moved. A nil one does nothing and fails never.
type client struct {
	lab *Lab
	id  string
}

func (l *Lab) startClient(ctx context.Context, t *trip, hello string) (*client, error) {
	c := &client{lab: l, id: t.id + "-client"}
	load := t.row.Load
	_, err := l.engine.run(ctx, l.options.Clients, container{
		id: c.id, image: imageRef(load.Image), args: program(load.Files, load.Script), network: testbed.NetworkHost,
		user: load.User, env: []string{"ADDR=" + t.addr, "HELLO=" + hello},
	})
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c, nil
}

func (c *client) log(ctx context.Context) string {
	if c == nil {
		return ""
	}
	return c.lab.engine.printed(ctx, c.lab.options.Clients, c.id)
}

// lines is how many it has printed.
func (c *client) lines(ctx context.Context) int { return strings.Count(c.log(ctx), "\n") }

// failed is an error if the client has ended, which it must not do by itself.
func (c *client) failed(ctx context.Context) error {
	if c == nil {
		return nil
	}
	state, err := c.lab.engine.state(ctx, c.lab.options.Clients, c.id)
	if err == nil && state != running {
		err = fmt.Errorf("the client is %q", state)
	}
	return err
}

// finish has the client end and checks that it is content.
func (c *client) finish(ctx context.Context) error {
	if c == nil {
		return nil
	}
	h := c.lab.options.Clients
	if err := c.lab.engine.kill(ctx, h, c.id, "SIGTERM"); err != nil {
		return err
	}
	err := rig.Eventually(ctx, "the client ends", func() (bool, error) {
		state, err := c.lab.engine.state(ctx, h, c.id)
		return state != running, err
	})
	if err != nil {
		return err
	}
	status, err := c.lab.engine.status(ctx, h, c.id)
	if err == nil && status != 0 {
		err = fmt.Errorf("it ended with status %d", status)
	}
	return err
}

func (c *client) remove(ctx context.Context) error {
	if c == nil {
		return nil
	}
	return c.lab.engine.remove(ctx, c.lab.options.Clients, c.id)
}
