package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
)

func runCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "run a container in a host's containerd; prints its address",
		ArgsUsage: "HOST ID IMAGE [COMMAND...]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "net", Value: string(testbed.NetworkCNI), Usage: "none, host or cni"},
			&cli.StringFlag{Name: "ip", Usage: "address it must get, with --net cni"},
			&cli.StringFlag{Name: "mac", Usage: "hardware address it must get, with --net cni"},
			&cli.StringSliceFlag{Name: "flag", Usage: "further flag of ctr run"},
		},
		Action: runContainer,
	}
}

func runContainer(c *cli.Context) error {
	_, host, err := openHost(c, 3)
	if err != nil {
		return err
	}
	arguments := c.Args().Slice()
	container, err := host.RunContainer(c.Context, testbed.ContainerSpec{
		ID:      arguments[1],
		Image:   arguments[2],
		Args:    arguments[3:],
		Network: testbed.Network(c.String("net")),
		IP:      c.String("ip"),
		MAC:     c.String("mac"),
		Flags:   c.StringSlice("flag"),
	})
	if err != nil {
		return err
	}
	if container.Addr.IsValid() {
		fmt.Fprintln(c.App.Writer, container.Addr)
	}
	return nil
}

func removeCommand() *cli.Command {
	return hostCommand("rm", "HOST ID", "kill and remove a container with its network", func(c *cli.Context, h *testbed.Host) error {
		return h.RemoveContainer(c.Context, c.Args().Get(1))
	})
}
