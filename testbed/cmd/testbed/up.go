package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
)

func upCommand() *cli.Command {
	return &cli.Command{
		Name:  "up",
		Usage: "bring the hosts up",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "hosts", Value: "a,b,c", Usage: "names of the hosts"},
			&cli.StringFlag{Name: "link", Value: "none", Usage: "rate of each host's link: none, 100mbit, 1gbit, 10gbit, or any other"},
			&cli.StringSliceFlag{Name: "package", Usage: "further Debian package for the hosts"},
			&cli.StringFlag{Name: "docker", Usage: "generation of Docker for the hosts: 26.1, 28.5, 28.5+shim"},
			&cli.StringSliceFlag{Name: "in-containerd", Usage: "`HOST` whose Docker keeps images in containerd"},
			&cli.StringSliceFlag{Name: "image", Usage: "image to import into every host: " + strings.Join(testbed.ImageNames(), ", ")},
			&cli.StringSliceFlag{Name: "binary", Usage: "`NAME=FILE` to copy to /usr/local/bin of every host"},
			&cli.StringSliceFlag{Name: "bind", Usage: "`PATH=FILE` or directory of the machine to show in every host"},
			&cli.BoolFlag{Name: "cgroup2", Usage: "hosts see cgroup2 only"},
			&cli.StringFlag{Name: "workload", Usage: "built test program for the image tools; default: built with go"},
			&cli.BoolFlag{Name: "replace", Usage: "take a running testbed of this name down first"},
		},
		Action: up,
	}
}

func up(c *cli.Context) error {
	binaries, err := pairs(c.StringSlice("binary"))
	if err != nil {
		return err
	}
	binds, err := pairs(c.StringSlice("bind"))
	if err != nil {
		return err
	}
	begin := time.Now()
	bed, err := testbed.Up(c.Context, testbed.Options{
		Name:         c.String("name"),
		Hosts:        strings.Split(c.String("hosts"), ","),
		Link:         c.String("link"),
		Packages:     c.StringSlice("package"),
		Docker:       testbed.Docker(c.String("docker")),
		InContainerd: c.StringSlice("in-containerd"),
		Images:       c.StringSlice("image"),
		Binaries:     binaries,
		Binds:        binds,
		Cgroup2:      c.Bool("cgroup2"),
		Workload:     c.String("workload"),
		Replace:      c.Bool("replace"),
		Logger:       logger(),
	})
	if err != nil {
		return err
	}
	for _, h := range bed.Hosts() {
		fmt.Fprintf(c.App.Writer, "%s\t%s\n", h.Name, h.Addr())
	}
	fmt.Fprintf(c.App.ErrWriter, "testbed %s is up after %.1f s\n", bed.Name, time.Since(begin).Seconds())
	return nil
}

// pairs reads NAME=FILE.
func pairs(values []string) (map[string]string, error) {
	m := map[string]string{}
	for _, value := range values {
		name, file, ok := strings.Cut(value, "=")
		if !ok || name == "" || file == "" {
			return nil, fmt.Errorf("%q: want NAME=FILE", value)
		}
		m[name] = file
	}
	return m, nil
}

func downCommand() *cli.Command {
	return &cli.Command{
		Name:  "down",
		Usage: "take the testbed away with all that ran in it",
		Action: func(c *cli.Context) error {
			return testbed.Down(c.Context, c.String("name"))
		},
	}
}

func cleanCommand() *cli.Command {
	return &cli.Command{
		Name:  "clean",
		Usage: "remove the cached root file systems and images",
		Action: func(c *cli.Context) error {
			return testbed.Clean(c.Context)
		},
	}
}
