package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"migrate/testbed/cmd/workload/internal/churn"
)

// unavailableStatus is the exit status for a case that the machine can't run.
const unavailableStatus = 3

func churnCommand() *cli.Command {
	return &cli.Command{
		Name:        "churn",
		Usage:       "change memory in a way that is hard to migrate, check it all the while, and all of it at every SIGUSR1",
		Description: churnHelp(),
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "list", Usage: "only print the names of the cases"},
			&cli.StringFlag{Name: "case", Usage: "what to do to memory: " + strings.Join(churn.Names(), ", ")},
			&cli.IntFlag{Name: "mib", Value: 24, Usage: "memory, roughly; at least 1"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "what the memory's content follows from"},
			&cli.StringFlag{Name: "dir", Value: ".", Usage: "`DIRECTORY` for files to be mapped"},
		},
		Action: runChurn,
	}
}

func churnHelp() string {
	var b strings.Builder
	for _, c := range churn.Cases {
		fmt.Fprintf(&b, "%-15s %s\n", c.Name, c.About)
	}
	return b.String()
}

func runChurn(c *cli.Context) error {
	if c.Bool("list") {
		_, err := fmt.Fprintln(c.App.Writer, strings.Join(churn.Names(), "\n"))
		return err
	}
	if mib := c.Int("mib"); mib < 1 || mib > 1<<16 {
		return fmt.Errorf("mib %d: want 1 to %d", mib, 1<<16)
	}
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	defer signal.Stop(asked)
	work, ctx := errgroup.WithContext(c.Context)
	work.Go(func() error { return tick(ctx, os.Stdout, tickInterval) })
	work.Go(func() error {
		o := churn.Options{Case: c.String("case"), MiB: c.Int("mib"), Seed: c.Uint64("seed"), Dir: c.String("dir"), Out: c.App.Writer}
		return churn.Run(ctx, o, asked)
	})
	err := work.Wait()
	var no *churn.Unavailable
	if errors.As(err, &no) {
		return cli.Exit(err, unavailableStatus)
	}
	return err
}
