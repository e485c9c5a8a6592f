package main

import (
	"errors"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/testbed/cmd/workload/internal/feature"
)

func featureCommand() *cli.Command {
	return &cli.Command{
		Name:        "feature",
		Usage:       "live on one feature of the kernel, check it at every step, and print a numbered line for each",
		Description: feature.Help(),
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kind", Required: true, Usage: "which one, see above"},
			&cli.StringFlag{Name: "dir", Value: ".", Usage: "`DIRECTORY` for files"},
			&cli.IntFlag{Name: "count", Usage: "of processes, files or threads; default: the kind's own"},
			&cli.IntFlag{Name: "mib", Usage: "size of the file; default: the kind's own"},
			&cli.DurationFlag{Name: "interval", Value: 30 * time.Millisecond, Usage: "time between steps"},
			&cli.BoolFlag{Name: "partner", Hidden: true, Usage: "be the second process of the kind"},
		},
		Action: runFeature,
	}
}

func runFeature(c *cli.Context) error {
	if c.Bool("partner") {
		return feature.RunPartner(c.String("kind"), c.Args().Slice(), os.Stdin, c.App.Writer)
	}
	err := feature.Run(c.Context, feature.Options{
		Kind: c.String("kind"), Dir: c.String("dir"), Count: c.Int("count"), MiB: c.Int("mib"), Every: c.Duration("interval"), Out: c.App.Writer,
	})
	if errors.Is(err, feature.ErrDamage) {
		return report(c.App.Writer, map[string]string{"damaged": err.Error()}, false)
	}
	return err
}
