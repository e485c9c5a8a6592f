// Command testbed makes several hosts on one machine, see package testbed.
//
//	testbed up --hosts a,b --link 1gbit
//	testbed exec a -- ping -c1 b
//	testbed down
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
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
	os.Exit(exitCode(app().RunContext(ctx, os.Args)))
}

// A commandError is the failure of a command that a user ran in a host.
type commandError struct{ *exec.ExitError }

// exitCode says on standard error what failed. A command that ran in a host has
// spoken for itself; its code is passed on.
func exitCode(err error) int {
	var command commandError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &command):
		return max(command.ExitCode(), 1)
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "testbed: interrupted")
		return 130
	}
	fmt.Fprintln(os.Stderr, "testbed:", err)
	return 1
}

func app() *cli.App {
	return &cli.App{
		Name:  "testbed",
		Usage: "several hosts on one machine, to try live migration on",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Value: testbed.DefaultName, EnvVars: []string{"MIGRATE_TESTBED"}, Usage: "name of the testbed; several can be up at once"},
		},
		Commands: []*cli.Command{
			upCommand(), downCommand(), execCommand(), psCommand(),
			cutCommand(), healCommand(), rateCommand(),
			killCommand(), startCommand(), imageCommand(),
			runCommand(), removeCommand(), cleanCommand(),
		},
		// Errors are printed and turned into exit codes in one place, above.
		ExitErrHandler:  func(*cli.Context, error) {},
		HideHelpCommand: true,
	}
}

func logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return a
		},
	}))
}

func open(c *cli.Context) (*testbed.Testbed, error) {
	return testbed.Open(c.String("name"), logger())
}

// openHost also checks that the command has count arguments, the first a host.
func openHost(c *cli.Context, count int) (*testbed.Testbed, *testbed.Host, error) {
	if c.NArg() < count {
		return nil, nil, fmt.Errorf("%s: want %s", c.Command.Name, c.Command.ArgsUsage)
	}
	bed, err := open(c)
	if err != nil {
		return nil, nil, err
	}
	host := bed.Host(c.Args().First())
	if host == nil {
		return nil, nil, fmt.Errorf("testbed %s has no host %q", bed.Name, c.Args().First())
	}
	return bed, host, nil
}
