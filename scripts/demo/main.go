// Command demo shows the main job on one machine: a redis under write load moves from one host to another while its
// client keeps its connection. It makes a testbed of three hosts, moves the container, proves what happened, and takes
// the testbed down again, also when something fails or it is interrupted.
//
//	go run ./scripts/demo --binary build/bin/migrate
//	go run ./scripts/demo --binary build/bin/migrate --docker 26.1
//	go run ./scripts/demo --binary build/bin/migrate --docker 28.5+shim --shim build/bin/containerd-shim-migrate-v1
//
// The hosts: a has the container at first and b takes it in; the client runs on c. Only a has the image.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"migrate/testbed"
)

const (
	bedName     = "demo"
	containerID = "redis"
	downLimit   = time.Minute
)

func main() {
	if code, ran := testbed.Child(); ran {
		os.Exit(code)
	}
	binary := flag.String("binary", "build/bin/migrate", "the program to show")
	link := flag.String("link", "none", "rate of each host's link, such as 1gbit")
	docker := flag.String("docker", "", "show it with Docker of a generation: 26.1, 28.5, or 28.5+shim")
	shim := flag.String("shim", "build/bin/containerd-shim-migrate-v1", "the shim of 28.5+shim")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, programs{*binary, *shim}, *link, testbed.Docker(*docker))
	stop()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = errors.New("interrupted")
		}
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// programs are what the hosts are to show.
type programs struct{ migrate, shim string }

// run brings the hosts up, shows the job, and takes the hosts down whatever happens.
func run(ctx context.Context, p programs, link string, docker testbed.Docker) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it makes namespaces and networks and needs root: run it with sudo, or as root")
	}
	say("bringing up three hosts a, b and c (the first time their Debian is built, which takes a minute or two)")
	bed, done, err := raise(ctx, p, link, docker)
	if err != nil {
		return err
	}
	defer func() {
		say("taking the hosts down")
		err = errors.Join(err, done())
	}()
	d := &demo{a: bed.Host("a"), b: bed.Host("b"), c: bed.Host("c")}
	if docker != testbed.DockerNone {
		say("loading the redis image on host a; host b does not have it")
		if err := bed.Import(ctx, testbed.Images{Names: []string{testbed.ImageRedis}, Hosts: []string{"a"}}); err != nil {
			return err
		}
		return (&dockerDemo{demo: d, bed: bed, docker: docker, c: &checks{}}).run(ctx)
	}
	if err := d.prepare(ctx, bed); err != nil {
		return err
	}
	defer d.stop()
	if err := d.move(ctx); err != nil {
		return err
	}
	return d.prove(ctx)
}

// raise makes the testbed. done takes it away and complains if something of it is left.
func raise(ctx context.Context, p programs, link string, docker testbed.Docker) (bed *testbed.Testbed, done func() error, err error) {
	dir, err := os.MkdirTemp("", "migrate-demo-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir) // the hosts have copies
	workload := filepath.Join(dir, "workload")
	if err := buildWorkload(ctx, workload); err != nil {
		return nil, nil, err
	}
	binaries := map[string]string{"migrate": p.migrate, "workload": workload}
	if docker == testbed.Docker28Shim {
		binaries[testbed.StockShim] = p.shim
	}
	bed, err = testbed.Up(ctx, testbed.Options{
		Name: bedName, Hosts: []string{"a", "b", "c"}, Link: link, Docker: docker, Replace: true, Binaries: binaries,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("bring up the hosts: %w", err)
	}
	return bed, func() error { return takeDown(bed) }, nil
}

func takeDown(bed *testbed.Testbed) error {
	ctx, cancel := context.WithTimeout(context.Background(), downLimit)
	defer cancel()
	err := bed.Down(ctx)
	left, lerr := testbed.Leftovers(bedName)
	if len(left) > 0 {
		lerr = errors.Join(lerr, fmt.Errorf("left of the testbed: %s", strings.Join(left, ", ")))
	}
	return errors.Join(err, lerr)
}

func say(format string, args ...any) { fmt.Printf("==> "+format+"\n", args...) }
