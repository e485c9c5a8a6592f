package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
)

func imageCommand() *cli.Command {
	return &cli.Command{
		Name:      "image",
		Usage:     "build images and import them into hosts",
		ArgsUsage: "[" + strings.Join(testbed.ImageNames(), "|") + "...]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "hosts", Usage: "hosts to import into; default: all"},
			&cli.StringFlag{Name: "workload", Usage: "built test program for the image tools; default: built with go"},
		},
		Action: func(c *cli.Context) error {
			bed, err := open(c)
			if err != nil {
				return err
			}
			names := c.Args().Slice()
			if len(names) == 0 {
				names = testbed.ImageNames()
			}
			var hosts []string
			if list := c.String("hosts"); list != "" {
				hosts = strings.Split(list, ",")
			}
			return bed.Import(c.Context, testbed.Images{Names: names, Workload: c.String("workload"), Hosts: hosts})
		},
	}
}
