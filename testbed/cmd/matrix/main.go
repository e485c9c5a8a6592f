// Command matrix moves workloads between two hosts of a testbed of its own, there and back under load, see package matrix.
//
//	go run ./testbed/cmd/matrix
//	go run ./testbed/cmd/matrix --rows redis,bash --repeat 20
//	go run ./testbed/cmd/matrix --rows 10 --repeat 20 --seed 7
//	go run ./testbed/cmd/matrix --engine docker --docker 28.5
//
// It prints a line for each run, writes all results to a file, and looks at the end for what is left on the hosts. The exit
// status is 1 if a workload failed or anything is left.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
)

func main() {
	if code, ran := testbed.Child(); ran {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A reader of the output that leaves must not kill the program before it has cleaned up. Caught and not ignored,
	// because what is started would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(exitCode(ctx, app().RunContext(ctx, os.Args)))
}

// exitCode says on standard error what failed.
func exitCode(ctx context.Context, err error) int {
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "matrix: interrupted")
		return 130
	}
	fmt.Fprintln(os.Stderr, "matrix:", err)
	return 1
}

func app() *cli.App {
	return &cli.App{
		Name:  "matrix",
		Usage: "move what people run, under load, there and back",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "list", Usage: "only print the rows"},
			&cli.StringFlag{Name: "engine", Value: containerdEngine, Usage: "`ENGINE` that containers are run with: containerd, docker"},
			&cli.StringFlag{Name: "docker", Usage: "`GENERATION` of Docker, with --engine docker: 26.1 (default), 28.5, 28.5+shim"},
			&cli.StringFlag{Name: "rows", Usage: "`ROWS` to run: names with commas, or how many to choose at random; default: all"},
			&cli.IntFlag{Name: "repeat", Value: 1, Usage: "run each row `N` times"},
			&cli.IntFlag{Name: "parallel", Value: 2, Usage: "run `N` rows at once"},
			&cli.BoolFlag{Name: "leaks", Value: true, Usage: "look at the end for what is left on the hosts"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "what the random choice follows from"},
			&cli.StringFlag{Name: "link", Value: "10gbit", Usage: "`RATE` of each host's link: none, 100mbit, 1gbit, 10gbit"},
			&cli.StringFlag{Name: "out", Value: "build/matrix.json", Usage: "`FILE` for the results"},
			&cli.StringFlag{Name: "table", Usage: "page whose table of this engine is replaced by that of this run"},
			&cli.StringFlag{Name: "binary", Usage: "built migrate to try; default: built with go"},
			&cli.StringFlag{Name: "name", Value: "matrix", Usage: "of the testbed"},
			&cli.BoolFlag{Name: "use", Usage: "use the testbed of that name, which is up with hosts a, b and c, and leave it up"},
		},
		Action:          run,
		ExitErrHandler:  func(*cli.Context, error) {}, // errors become text and exit codes in one place, above
		HideHelpCommand: true,
	}
}
