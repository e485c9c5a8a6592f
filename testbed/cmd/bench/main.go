// Command bench measures what a move costs, on two hosts of a testbed of its own, in one run and side by side:
//
//	migrate   `migrate send` from one host to the other, as its users run it
//	criu      the floor: plain `runc checkpoint` and `runc restore` on one host, images in memory, nothing sent
//	criu-skip the same without CRIU's network lock; not among the default tools
//	ctr       what containerd offers: checkpoint, export, scp, import, restore, between the same two hosts
//	podman    what Podman offers: checkpoint --export, scp, restore --import, between the same two hosts
//
// All move the same kind of container: the test program with so much memory, half of it random, of which it rewrites
// random pages all the time, in a network namespace of its own. After every move the program checks all its memory; a
// wrong byte makes the run an error.
//
//	go run ./testbed/cmd/bench --runs 7 --sizes 64,1024,4096 --link 10gbit
//	go run ./testbed/cmd/bench --measure moves --tools migrate,criu --sizes 16,64,256 --dirty 0
//
// The tools take turns in every round, so that what else happens on the machine meets all alike; a round in which one
// of them failed counts for none. Rounds before the first warm caches up and are not counted. Tools that take minutes
// for a large container leave it out, see --limits; n in the table is how many runs were counted.
//
// # What is measured
//
// Downtime is from the beginning of the stop to the first sign of life of the program, or what the tool says itself:
// for migrate the report's downtime_ms; for criu from the start of `runc checkpoint` to the first line that the restored
// program prints (which it does at once, being late); for ctr and podman likewise from the start of their checkpoint
// command. Both are favoured: the source's copy is ended, and the destination's network namespace made, outside the
// measured time, their archives are in memory and not compressed, and the image is at the destination.
//
// Gap is the longest silence in the program's own output, the same for all tools: the line before the stop to the line
// after it, by the program's clock. Lines come every 10 ms, so it is 0 to 10 ms more than the real stop.
//
// What had to be sent at the least is every page once that is neither zeros nor a copy of another, as `zstd -1` packs
// them in one stream, and the pages with a new content in later rounds as they are. It is held against all that went over
// the wire. The agents' memory is the anonymous memory of all processes of our program on a host, at its highest; the
// page store is a file and not part of it.
//
// Further measures need no other tool. Link: the rate of the first round, of memory that does not compress, beside
// iperf3 right before it. Load: how many commands redis does under redis-benchmark while its memory is copied, beside the
// seconds before.
//
// Client's gap: how long clients of several kinds make no progress, over IPv4 and IPv6, beside the stop: the report's
// downtime or the silence in the program's output, whichever is shorter. The clients are on a third host, and their server moves to and fro between the other two; they check every byte. The gap
// is the client's longest silence, and a second one after it is shown too.
//
// Post: 1 GiB over 100 Mbit, in the modes precopy, postcopy and hybrid, and postcopy with the link cut for 5 s while memory comes. Degraded
// is the time after the resume in which pages were missing. Three rounds at most.
//
// Postgres: a database whose shared buffers, 1 GiB, are in use, moves to and fro under pgbench, and another one is checkpointed and restored
// where it is. In the end both are checked: no acknowledged transaction is missing, balances add up, pg_amcheck is content.
//
// Docker: a container of Docker 26.1 with a client on a third host, moved by our own program and by hand: docker checkpoint create, a copy of the
// checkpoint and of the container's changed files, docker start --checkpoint. That is favoured like ctr: the container is created at the destination outside
// the measured time, the checkpoint is in memory at the source, all is copied in one go, and CRIU is configured to keep connections, without which
// Docker makes no checkpoint of a container that has one. What a container has kept is looked for after every move, and once also without any of these favours.
//
// The largest container is there three times at most, as itself, in a file, and restored; a machine for the defaults has
// 16 GiB of memory.
package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
	"migrate/testbed/internal/rig"
)

func main() { rig.Main(app()) }

func app() *cli.App {
	return &cli.App{
		Name:  "bench",
		Usage: "measure downtime, total time, bytes, memory and load, beside plain CRIU, ctr, Podman and Docker",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "measure", Value: strings.Join(measureNames, ","), Usage: "`WHAT` to measure: " + strings.Join(measureNames, ", ")},
			&cli.IntFlag{Name: "runs", Value: 7, Usage: "`N` counted rounds"},
			&cli.StringFlag{Name: "sizes", Value: "64,1024,4096", Usage: "memory of the containers in `MIB`"},
			&cli.Float64Flag{Name: "dirty", Value: 1, Usage: "`PERCENT` of the pages that the containers rewrite each second"},
			&cli.StringFlag{Name: "limits", Value: "ctr=1024,podman=1024,docker=1024", Usage: "`TOOL=MIB[:RUNS]`: no larger container for this tool, no more counted rounds"},
			&cli.IntFlag{Name: "clients", Value: 50, Usage: "`N` connections of redis-benchmark, for load"},
			&cli.StringFlag{Name: "gap-clients", Value: strings.Join(gapKinds, ","), Usage: "`KINDS` of clients, for gap"},
			&cli.Int64Flag{Name: "gap-rate", Usage: "`MIB` a second of downloads and uploads, for gap; 0: as fast as it goes"},
			&cli.IntFlag{Name: "postgres-mib", Value: 1024, Usage: "shared buffers of postgres in `MIB`"},
			&cli.StringFlag{Name: "link", Value: "10gbit", Usage: "`RATE` of each host's link: none, 100mbit, 1gbit, 10gbit"},
			&cli.StringFlag{Name: "tools", Value: "migrate,criu,ctr,podman", Usage: "`TOOLS` to measure: " + strings.Join(toolNames, ", ") + "; without criu there is no floor"},
			&cli.StringFlag{Name: "network", Value: string(testbed.NetworkCNI), Usage: "of the containers: cni or none"},
			&cli.StringFlag{Name: "out", Value: "build/bench.json", Usage: "`FILE` for the results"},
			&cli.StringFlag{Name: "binary", Usage: "built migrate to measure; default: built with go"},
			&cli.StringFlag{Name: "name", Value: "bench", Usage: "of the testbed"},
			&cli.StringSliceFlag{Name: "send-flag", Usage: "further `FLAG` of migrate send"},
		},
		Action: bench,
	}
}

// bench is the whole run. Targets that are missed are a result, not an error.
func bench(c *cli.Context) (err error) {
	o, err := parse(c)
	if err != nil {
		return err
	}
	l, err := setUp(c.Context, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(c.Context))) }()
	res, err := l.measure(c.Context, c.App.ErrWriter)
	if err != nil {
		return err
	}
	if err := res.write(o.out); err != nil {
		return err
	}
	printTable(c.App.Writer, res)
	fmt.Fprintf(c.App.Writer, "\nall runs are in %s\n", o.out)
	if res.Failures > 0 {
		return fmt.Errorf("%d runs failed, see above", res.Failures)
	}
	return nil
}
