package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"migrate/testbed"
)

const (
	ackedLog = "/tmp/demo-acked" // on c: the numbers of the acknowledged writes
	restKeys = 20000             // keys that nobody writes during the move
	runUp    = 2 * time.Second   // of writing before the move, and after it
)

// demo is one showing.
type demo struct {
	a, b, c *testbed.Host
	ip      string // of the container
	recv    *process
	client  *process
	before  facts
}

// prepare starts redis, the destination agent and the client.
func (d *demo) prepare(ctx context.Context, bed *testbed.Testbed) error {
	say("importing the redis image on host a; host b does not have it")
	if err := bed.Import(ctx, testbed.Images{Names: []string{testbed.ImageRedis}, Hosts: []string{"a"}}); err != nil {
		return err
	}
	say("starting redis in containerd on host a, with %d keys", restKeys)
	c, err := d.a.RunContainer(ctx, testbed.ContainerSpec{ID: containerID, Image: "testbed/redis:latest", Network: testbed.NetworkCNI})
	if err != nil {
		return err
	}
	d.ip = c.Addr.String()
	if err := d.fill(ctx); err != nil {
		return err
	}
	say("starting `migrate recv` on host b")
	if d.recv, err = background(ctx, d.b, "recv", "migrate", "recv"); err != nil {
		return err
	}
	if err := d.recv.until(ctx, "start the destination agent", func() bool { return strings.Contains(d.recv.out.String(), "fingerprint ") }); err != nil {
		return err
	}
	say("starting a client on host c that writes to %s over one connection", d.ip)
	d.client, err = background(ctx, d.c, "client", "workload", "rediswrite", "--addr", d.ip+":6379", "--log", ackedLog, "--duration", "0")
	if err != nil {
		return err
	}
	if err := sleep(ctx, runUp); err != nil {
		return err
	}
	d.before, err = d.gather(ctx)
	return err
}

// fill waits for redis and writes the keys that must be the same afterwards, into a database of their own.
func (d *demo) fill(ctx context.Context) error {
	for end := time.Now().Add(waitLimit); ; {
		_, err := d.redis(ctx, "PING")
		if err == nil {
			break
		}
		if ctx.Err() != nil || time.Now().After(end) {
			return fmt.Errorf("wait for redis: %w", err)
		}
		if err := sleep(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	const script = `for i = 1, tonumber(ARGV[1]) do redis.call('SET', 'rest:' .. i, redis.sha1hex('demo' .. i) .. string.rep('x', 200)) end`
	_, err := d.redis(ctx, "-n", "1", "EVAL", script, "0", fmt.Sprint(restKeys))
	return err
}

// move runs `migrate send` with its output for all to see.
func (d *demo) move(ctx context.Context) error {
	token, err := output(ctx, d.b, "migrate", "enroll")
	if err != nil {
		return err
	}
	argv := []string{"migrate", "send", containerID, "b", "--token", token}
	say("on host a: migrate send %s b --token mgt1-…", containerID)
	cmd := d.a.Command(ctx, argv...)
	cmd.Env = append(cmd.Env, "TERM="+os.Getenv("TERM"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("migrate send: %w\nthe destination agent said:\n%s", err, d.recv.err.String())
	}
	return sleep(ctx, runUp)
}

// redis runs redis-cli on host c. It reports errors of the server as its own.
func (d *demo) redis(ctx context.Context, args ...string) (string, error) {
	return output(ctx, d.c, append([]string{"redis-cli", "-e", "-h", d.ip}, args...)...)
}

func (d *demo) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	_ = d.recv.end(ctx) // the hosts go away anyhow
}

func sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-time.After(t):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
