// Package cli is the command line: it turns arguments into the options of the two agents, shows how far a migration is,
// and turns errors into text and exit codes. Each command has a file of its own; nothing here decides what becomes of a
// container.
//
//	migrate check                  check.go     what would stand in the way
//	migrate send CONTAINER DEST    send.go      the source agent
//	migrate recv                   recv.go      the destination agent
//	migrate enroll, peers, fingerprint          who may send to this host
//	migrate thaw CONTAINER         thaw.go      after a migration that ended in doubt
//	migrate guard                  guard.go     hidden: the process that outlives a source agent
//	migrate pager, drain           pager.go     hidden: those that outlive a destination agent
//
// Standard output carries results only: the summary or the JSON report, a token, a list. Everything else goes to
// standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/internal/fail"
)

// environment is what a command has of the process, so that tests can give it another.
type environment struct {
	in       io.Reader
	out, err io.Writer
	euid     int
}

// Main runs the program and returns its exit status.
func Main(args []string) int {
	// The guard must be up before the container stands still, so nothing is built for it that it does not need.
	if len(args) > 1 && args[1] == guardCommand {
		return runGuard(args[2:], os.Stdin, os.Stderr)
	}
	if len(args) > 1 && args[1] == throttleCommand {
		return runThrottle(args[2:], os.Stdin, os.Stdout, os.Stderr)
	}
	if len(args) > 1 && args[1] == pagerCommand {
		return runPager(args[2:], os.Stderr)
	}
	if len(args) > 1 && args[1] == fillerCommand {
		return runFiller(args[2:], os.Stdin, os.Stdout, os.Stderr)
	}
	if len(args) > 1 && args[1] == drainCommand {
		return runDrain(args[2:], os.Stderr)
	}
	if len(args) > 1 && args[1] == canaryCommand {
		return runCanary()
	}
	keepWriting()
	return run(args, environment{in: os.Stdin, out: os.Stdout, err: os.Stderr, euid: os.Geteuid()})
}

func run(args []string, env environment) int {
	app := newApp(env)
	err := app.RunContext(context.Background(), reorder(app, args))
	if err == nil {
		return 0
	}
	var f *fail.Fault
	if !errors.As(err, &f) {
		f = fail.New(fail.Internal, "run the command", err)
	}
	fmt.Fprint(env.err, f.Text())
	return fail.Exit(f)
}

func newApp(env environment) *cli.App {
	app := &cli.App{
		Name:  "migrate",
		Usage: "move running containers between hosts",
		Description: "A container moves with its memory, its open files and its established TCP connections.\n" +
			"Start `migrate recv` on the host that takes containers in, and `migrate send` on the one that gives them away.",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "version", Usage: "print version and commit", DisableDefaultText: true},
		},
		Commands: []*cli.Command{
			checkCommand(env), sendCommand(env), recvCommand(env), enrollCommand(env), peersCommand(env), fingerprintCommand(env),
			thawCommand(env), completionCommand(env),
		},
		Action:                    noCommand(env),
		OnUsageError:              onUsageError,
		ExitErrHandler:            func(*cli.Context, error) {}, // errors become text and exit codes in run alone
		EnableBashCompletion:      true,
		DisableSliceFlagSeparator: true, // paths may hold commas
		HideVersion:               true,
		Reader:                    env.in,
		Writer:                    env.out,
		ErrWriter:                 env.err,
		Compiled:                  time.Time{},
	}
	prepare(app.Commands)
	return app
}

// prepare gives all commands what they have in common. Commands without sub-commands get none for help, since a
// container may be called "help".
func prepare(commands []*cli.Command) {
	for _, c := range commands {
		c.OnUsageError = onUsageError
		c.HideHelpCommand = true
		prepare(c.Subcommands)
	}
}

// noCommand serves an invocation that names no known command.
func noCommand(env environment) cli.ActionFunc {
	return func(c *cli.Context) error {
		switch {
		case c.Bool("version"):
			fmt.Fprintln(env.out, versionText())
			return nil
		case c.Args().Present():
			return usage(fmt.Sprintf("unknown command %q", c.Args().First()), "migrate --help lists the commands")
		}
		_ = cli.ShowAppHelp(c)
		return usage("a command is missing", "choose one of the above")
	}
}

// onUsageError turns what the flag parser says into a Fault. The parser's own texts name flags with one dash, and are
// otherwise clear.
func onUsageError(c *cli.Context, err error, _ bool) error {
	name := "migrate"
	if c.Command != nil && c.Command.HelpName != "" {
		name = c.Command.HelpName
	}
	f := usage(err.Error(), name+" --help explains the flags")
	f.Err = err
	return f
}

// usage is a mistake on the command line.
func usage(what, remedy string) *fail.Fault {
	return &fail.Fault{Code: fail.Usage, What: what, Remedy: remedy}
}

// wantArgs checks the number of positional arguments against their names, of which those in brackets may be left out.
func wantArgs(c *cli.Context, names ...string) error {
	if n := c.NArg(); n > len(names) {
		return usage(fmt.Sprintf("unexpected argument %q", c.Args().Get(len(names))), c.Command.HelpName+" --help shows what is expected")
	}
	for i := c.NArg(); i < len(names); i++ {
		if names[i][0] != '[' {
			return usage(names[i]+" is missing", c.Command.HelpName+" --help shows what is expected")
		}
	}
	for i := range c.NArg() {
		if c.Args().Get(i) == "" {
			return usage(names[i]+" is empty", "")
		}
	}
	return nil
}

// needRoot says plainly what would otherwise fail in many ways.
func needRoot(env environment) error {
	if env.euid == 0 {
		return nil
	}
	return usage("this needs root", "run it with sudo, or as root")
}
