package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"migrate/testbed"
	"migrate/testbed/matrix"
)

// agentDir has the agents' directories, in the hosts.
const agentDir = "/run/matrix"

// agentPort is what the agents listen on.
const agentPort = 7640

// The engines.
const (
	containerdEngine = "containerd"
	dockerEngine     = "docker"
)

// generation is the Docker that is asked for, DockerNone for containerd.
func generation(engine, docker string) (testbed.Docker, error) {
	switch {
	case engine == containerdEngine && docker == "":
		return testbed.DockerNone, nil
	case engine == containerdEngine:
		return testbed.DockerNone, fmt.Errorf("a generation of Docker (%s) is for --engine docker, not for %s", docker, engine)
	case engine != dockerEngine:
		return testbed.DockerNone, fmt.Errorf("engine %q: known are %s and %s", engine, containerdEngine, dockerEngine)
	case docker == "":
		return testbed.Docker26, nil
	}
	return testbed.Docker(docker), nil // the testbed knows which there are
}

// run is the whole run. What there is of results is written even when it is interrupted.
func run(c *cli.Context) (err error) {
	rows, err := matrix.Choose(matrix.Rows(), c.String("rows"), c.Uint64("seed"))
	if err != nil {
		return err
	}
	if c.Bool("list") {
		for _, r := range rows {
			fmt.Fprintf(c.App.Writer, "%-20s %s\n", r.Name, r.About)
		}
		return nil
	}
	if c.Int("repeat") < 1 || c.Int("parallel") < 1 {
		return fmt.Errorf("repeat %d, parallel %d: want at least 1", c.Int("repeat"), c.Int("parallel"))
	}
	docker, err := generation(c.String("engine"), c.String("docker"))
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "migrate-matrix-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	bed, down, err := bring(c, work, docker, rows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	results, runErr := runRows(c, bed, rows)
	if err := errors.Join(runErr, matrix.Write(c.String("out"), results)); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "%d runs; all results are in %s\n", len(results), c.String("out"))
	if page := c.String("table"); page != "" {
		if err := matrix.Replace(page, results); err != nil {
			return err
		}
	}
	return matrix.Verdict(results)
}

// bring raises the hosts, or finds them.
func bring(c *cli.Context, work string, docker testbed.Docker, rows []matrix.Row) (bed *testbed.Testbed, down func() error, err error) {
	log := slog.New(slog.NewTextHandler(c.App.ErrWriter, nil))
	if c.Bool("use") {
		bed, err = testbed.Open(c.String("name"), log)
		if err == nil && bed.Docker() != docker {
			err = fmt.Errorf("testbed %s was made for %q of Docker, and %q is asked for: see --engine and --docker", bed.Name, bed.Docker(), docker)
		}
		return bed, func() error { return nil }, err
	}
	binaries := map[string]string{"migrate": c.String("binary")}
	for name, pkg := range map[string]string{"migrate": "migrate", "workload": "migrate/testbed/cmd/workload"} {
		if binaries[name] == "" {
			if binaries[name], err = build(c.Context, work, pkg); err != nil {
				return nil, nil, err
			}
		}
	}
	bed, err = testbed.Up(c.Context, testbed.Options{
		Name: c.String("name"), Hosts: []string{"a", "b", "c"}, Link: c.String("link"), Images: matrix.Images(rows), Workload: binaries["workload"],
		Binaries: binaries, Docker: docker, Replace: true, Logger: log,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("bring the testbed up: %w", err)
	}
	return bed, func() error { return bed.Down(context.WithoutCancel(c.Context)) }, nil
}

// build compiles a program of this module, statically, since the hosts have another Debian than the machine.
func build(ctx context.Context, work, pkg string) (string, error) {
	path := filepath.Join(work, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile %s (run this inside the project): %w: %s", pkg, err, strings.TrimSpace(string(out)))
	}
	return path, nil
}

// runRows runs all rows as often as is wanted, and looks for what is left of them.
func runRows(c *cli.Context, bed *testbed.Testbed, rows []matrix.Row) (results []matrix.Result, err error) {
	ctx := c.Context
	lab, err := matrix.NewLab(ctx, matrix.Options{
		Hosts: [2]*testbed.Host{bed.Host("a"), bed.Host("b")}, Clients: bed.Host("c"), Dir: agentDir, Port: agentPort,
		Docker: bed.Docker(), Address: addresses(bed.Host("a").Addr()),
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	var before stock
	if c.Bool("leaks") {
		if before, err = takeStock(ctx, lab); err != nil {
			return nil, err
		}
	}
	results = repeat(ctx, lab, rows, c.Int("repeat"), c.Int("parallel"), c.App.Writer)
	if ctx.Err() != nil {
		return results, ctx.Err()
	}
	if c.Bool("leaks") {
		err = before.compare(ctx, lab)
	}
	return results, err
}

// addresses gives containers one each, from what the hosts' network sets aside for containers. The hosts give them out without
// knowing which ones have moved elsewhere.
func addresses(host netip.Addr) func() string {
	const perHost, first, hosts = 240, 10, 16
	var last atomic.Int64
	return func() string {
		n := int(last.Add(1)-1) % (hosts * perHost)
		b := host.As4()
		b[2], b[3] = byte(1+n/perHost), byte(first+n%perHost)
		return netip.AddrFrom4(b).String()
	}
}

// repeat runs rows so many times, some at once. Results are in the order of the rows.
func repeat(ctx context.Context, lab *matrix.Lab, rows []matrix.Row, times, parallel int, out io.Writer) []matrix.Result {
	all := make([]*matrix.Result, len(rows)*times)
	var work errgroup.Group
	var mu sync.Mutex // holds back lines that are being printed
	work.SetLimit(parallel)
	for turn := range times {
		for i, row := range rows {
			if ctx.Err() != nil {
				break
			}
			work.Go(func() error {
				r := lab.Run(ctx, row)
				if ctx.Err() != nil {
					return nil // it was interrupted
				}
				if times > 1 {
					r.Run = turn + 1
				}
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintln(out, r.Line())
				all[i*times+turn] = &r
				return nil
			})
		}
	}
	_ = work.Wait() // no run returns an error: failures are results
	var results []matrix.Result
	for _, r := range all {
		if r != nil {
			results = append(results, *r)
		}
	}
	return results
}
