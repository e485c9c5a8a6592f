package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"migrate/testbed"
)

// dockerDemo shows the same with Docker: redis with a client goes there and back on a network of its own, and quiet ones on every
// kind of network that the version of Docker can restore.
type dockerDemo struct {
	*demo
	bed    *testbed.Testbed
	docker testbed.Docker
	agents map[*testbed.Host]*process
	c      *checks
}

// kind is a network of Docker, with what migrate send has to be told.
type kind struct{ network, flag string }

var (
	anyKind = []kind{{"bridge", "--tcp=close"}, {"none", ""}, {"host", ""}, {"container:owner", ""}}

	// kinds are those that a version can restore.
	kinds = map[testbed.Docker][]kind{
		testbed.Docker26: anyKind, testbed.Docker28Shim: anyKind, testbed.Docker28: {{"host", ""}, {"container:owner", ""}},
	}
)

// refused are networks that the version cannot restore.
var refused = map[testbed.Docker][]string{testbed.Docker28: {"bridge", testbed.DockerNetwork, "none"}}

func (d *dockerDemo) run(ctx context.Context) error {
	if err := d.startAgents(ctx); err != nil {
		return err
	}
	defer d.stopAgents()
	if d.docker != testbed.Docker28 {
		if err := d.thereAndBack(ctx); err != nil {
			return err
		}
	}
	say("loading the image by its name on both hosts, for containers that own a network")
	if err := d.bed.Import(ctx, testbed.Images{Names: []string{testbed.ImageRedis}}); err != nil {
		return err
	}
	for _, k := range kinds[d.docker] {
		if err := d.quiet(ctx, k.network, k.flag); err != nil {
			return err
		}
	}
	for _, network := range refused[d.docker] {
		if err := d.refusal(ctx, network); err != nil {
			return err
		}
	}
	return d.c.result()
}

func (d *dockerDemo) startAgents(ctx context.Context) error {
	d.agents = map[*testbed.Host]*process{}
	for _, h := range []*testbed.Host{d.a, d.b} {
		say("starting `migrate recv` on host %s", h.Name)
		p, err := background(ctx, h, "recv", "migrate", "recv")
		if err != nil {
			return err
		}
		d.agents[h] = p
		if err := p.until(ctx, "start the destination agent", func() bool { return strings.Contains(p.out.String(), "fingerprint ") }); err != nil {
			return err
		}
	}
	return nil
}

func (d *dockerDemo) stopAgents() {
	ctx, cancel := context.WithTimeout(context.Background(), waitLimit)
	defer cancel()
	for _, p := range d.agents {
		_ = p.end(ctx) // the hosts go away anyhow
	}
}

// dockerFacts are what docker-inspect(1) says that must be the same before and after.
const dockerFacts = `{{.Name}} {{.Config.Hostname}} {{.HostConfig.RestartPolicy.Name}} {{json .HostConfig.PortBindings}}` +
	`{{range .NetworkSettings.Networks}} {{.IPAddress}} {{.MacAddress}}{{end}}`

// thereAndBack moves redis while its client writes.
func (d *dockerDemo) thereAndBack(ctx context.Context) error {
	d.ip = strings.TrimSuffix(d.a.Addr().String(), "0.11") + "1.77"
	say("starting redis in Docker %s on host a at %s, with %d keys", d.docker, d.ip, restKeys)
	if _, err := output(ctx, d.a, "docker", "run", "--detach", "--name", containerID, "--network", testbed.DockerNetwork, "--ip", d.ip,
		"--restart", "always", "--publish", "16379:6379", "--health-cmd", "redis-cli ping", "--health-interval", "1s", "testbed/redis:latest"); err != nil {
		return err
	}
	if err := d.fill(ctx); err != nil {
		return err
	}
	var err error
	if d.client, err = background(ctx, d.demo.c, "client", "workload", "rediswrite", "--addr", d.ip+":6379", "--log", ackedLog, "--duration", "0"); err != nil {
		return err
	}
	if err := sleep(ctx, runUp); err != nil {
		return err
	}
	if d.before, err = d.gather(ctx); err != nil {
		return err
	}
	before, err := d.look(ctx, d.a)
	if err != nil {
		return err
	}
	for _, way := range [][2]*testbed.Host{{d.a, d.b}, {d.b, d.a}} {
		if err := d.send(ctx, way[0], way[1], containerID, ""); err != nil {
			return err
		}
		after, err := d.look(ctx, way[1])
		if err != nil {
			return err
		}
		d.c.add(after == before, "Docker on host %s says the same of it: %s", way[1].Name, before.facts)
		left, _ := output(ctx, way[0], "docker", "ps", "--all", "--quiet")
		d.c.add(left == "", "host %s has no container any more %s", way[0].Name, left)
		if err := sleep(ctx, runUp); err != nil {
			return err
		}
	}
	if err := d.proveWrites(ctx, d.c); err != nil {
		return err
	}
	_, err = output(ctx, d.a, "docker", "rm", "--force", containerID)
	return err
}

// said is what Docker says of a container.
type said struct{ facts, log string }

func (d *dockerDemo) look(ctx context.Context, h *testbed.Host) (s said, err error) {
	if s.facts, err = output(ctx, h, "docker", "inspect", "--format", dockerFacts, containerID); err != nil {
		return s, err
	}
	s.log, err = output(ctx, h, "docker", "logs", "--timestamps", containerID)
	return s, err
}

// send runs `migrate send` with its output for all to see.
func (d *dockerDemo) send(ctx context.Context, from, to *testbed.Host, name, flag string) error {
	token, err := output(ctx, to, "migrate", "enroll")
	if err != nil {
		return err
	}
	argv := []string{"migrate", "send", "--engine", "docker", name, to.Name, "--token", token}
	if flag != "" {
		argv = append(argv, flag)
	}
	say("on host %s: migrate send --engine docker %s %s --token mgt1-… %s", from.Name, name, to.Name, flag)
	cmd := from.Command(ctx, argv...)
	cmd.Env = append(cmd.Env, "TERM="+os.Getenv("TERM"))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("migrate send: %w\nthe destination agent said:\n%s", err, d.agents[to].err.String()))
	}
	return nil
}

// quiet moves a redis without a client there and back, on a kind of network.
func (d *dockerDemo) quiet(ctx context.Context, network, flag string) error {
	const name = "quiet"
	hosts := []*testbed.Host{d.a, d.b}
	for _, h := range hosts {
		if _, err := output(ctx, h, "docker", "run", "--detach", "--name", "owner", "testbed/redis:latest", "sleep", "1000"); err != nil {
			return err
		}
	}
	script := `docker run --detach --name "$1" --network "$2" testbed/redis:latest redis-server --port 6400 --save '' >/dev/null
		until docker exec "$1" redis-cli -p 6400 set key "$2" >/dev/null 2>&1; do sleep 0.1; done
		docker exec "$1" redis-cli -p 6400 info server | grep run_id`
	before, err := output(ctx, d.a, "sh", "-euc", script, "sh", name, network)
	if err != nil {
		return err
	}
	for _, way := range [][2]*testbed.Host{{d.a, d.b}, {d.b, d.a}} {
		if err := d.send(ctx, way[0], way[1], name, flag); err != nil {
			return err
		}
		after, err := output(ctx, way[1], "sh", "-euc", `[ "$(docker exec "$1" redis-cli -p 6400 get key)" = "$2" ]; docker exec "$1" redis-cli -p 6400 info server | grep run_id`, "sh", name, network)
		d.c.add(err == nil && after == before, "network %s: the same process with its data on host %s: %.19s", network, way[1].Name, after)
	}
	for _, h := range hosts {
		if _, err := output(ctx, h, "sh", "-c", `docker rm --force owner "$1" 2>/dev/null || true`, "sh", name); err != nil {
			return err
		}
	}
	return nil
}

// refusal shows that a container that the version cannot restore is refused while it runs on.
func (d *dockerDemo) refusal(ctx context.Context, network string) error {
	const name = "refused"
	pid := func() (string, error) {
		return output(ctx, d.a, "docker", "inspect", "--format", "{{.State.Status}} {{.State.Pid}}", name)
	}
	if _, err := output(ctx, d.a, "docker", "run", "--detach", "--name", name, "--network", network, "testbed/redis:latest"); err != nil {
		return err
	}
	before, err := pid()
	if err != nil {
		return err
	}
	refused := d.send(ctx, d.a, d.b, name, "") != nil
	after, err := pid()
	d.c.add(refused && err == nil && after == before, "network %s: refused, and the container runs on: %s", network, after)
	_, err = output(ctx, d.a, "docker", "rm", "--force", name)
	return err
}
