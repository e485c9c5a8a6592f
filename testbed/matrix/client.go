package matrix

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	spec := testbed.ContainerSpec{
		ID: c.id, Image: imageRef(load.Image), Args: program(load.Files, load.Script), Network: testbed.NetworkHost,
		Flags: []string{"--env", "ADDR=" + t.addr, "--env", "HELLO=" + hello},
	}
	if load.User != "" {
		spec.Flags = append(spec.Flags, "--user", load.User)
	}
	if _, err := l.engine.run(ctx, l.options.Clients, spec); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return c, nil
}

func (c *client) log() string {
	if c == nil {
		return ""
	}
	text, err := os.ReadFile(c.lab.options.Clients.Path(logPath(c.id)))
	if err != nil {
		return ""
	}
	return string(text)
}

// lines is how many it has printed.
func (c *client) lines() int { return strings.Count(c.log(), "\n") }

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
	err := c.lab.engine.remove(ctx, c.lab.options.Clients, c.id)
	if rerr := os.Remove(c.lab.options.Clients.Path(logPath(c.id))); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}
