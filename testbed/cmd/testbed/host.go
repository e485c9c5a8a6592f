package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
)

func execCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "run a command in a host; the exit code is the command's",
		ArgsUsage: "HOST [--] COMMAND [ARGUMENT...]",
		Action:    execute,
		// What follows is the command's, dashes included.
		SkipFlagParsing: true,
	}
}

func execute(c *cli.Context) error {
	_, host, err := openHost(c, 2)
	if err != nil {
		return err
	}
	argv := c.Args().Tail()
	if argv[0] == "--" {
		argv = argv[1:]
	}
	cmd := host.Command(c.Context, argv...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if term := os.Getenv("TERM"); term != "" {
		cmd.Env = append(cmd.Env, "TERM="+term)
	}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return commandError{exit}
	}
	return err
}

func psCommand() *cli.Command {
	return &cli.Command{
		Name:   "ps",
		Usage:  "show the hosts",
		Action: ps,
	}
}

func ps(c *cli.Context) error {
	bed, err := open(c)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "HOST\tPID\tADDRESS\tADDRESS6\tLINK\tDAEMONS")
	for _, h := range bed.Hosts() {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", h.Name, pid(h), h.Addr(), h.Addr6(), link(h), daemonList(h))
	}
	return table.Flush()
}

func pid(h *testbed.Host) string {
	if !h.Alive() {
		return "dead"
	}
	return fmt.Sprint(h.Pid())
}

func link(h *testbed.Host) string {
	if h.IsCut() {
		return "cut"
	}
	return h.Rate()
}

func daemonList(h *testbed.Host) string {
	var list []string
	for name, pid := range h.Daemons() {
		list = append(list, fmt.Sprintf("%s:%d", name, pid))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func cutCommand() *cli.Command {
	return hostCommand("cut", "HOST", "drop all packets from and to a host, silently", func(_ *cli.Context, h *testbed.Host) error {
		return h.Cut()
	})
}

func healCommand() *cli.Command {
	return hostCommand("heal", "HOST", "undo cut", func(_ *cli.Context, h *testbed.Host) error {
		return h.Heal()
	})
}

func rateCommand() *cli.Command {
	return hostCommand("rate", "HOST RATE", "change the rate of a host's link", func(c *cli.Context, h *testbed.Host) error {
		return h.SetRate(c.Args().Get(1))
	})
}

func killCommand() *cli.Command {
	return hostCommand("kill", "HOST DAEMON", "kill a daemon (containerd, sshd), as a crash would", func(c *cli.Context, h *testbed.Host) error {
		return h.KillDaemon(c.Context, c.Args().Get(1))
	})
}

func startCommand() *cli.Command {
	return hostCommand("start", "HOST DAEMON", "start a daemon", func(c *cli.Context, h *testbed.Host) error {
		return h.StartDaemon(c.Context, c.Args().Get(1))
	})
}

// hostCommand is a command whose first argument is a host.
func hostCommand(name, arguments, usage string, do func(*cli.Context, *testbed.Host) error) *cli.Command {
	return &cli.Command{
		Name:      name,
		Usage:     usage,
		ArgsUsage: arguments,
		Action: func(c *cli.Context) error {
			_, host, err := openHost(c, len(strings.Fields(arguments)))
			if err != nil {
				return err
			}
			return do(c, host)
		},
	}
}
