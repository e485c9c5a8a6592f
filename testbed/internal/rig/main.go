package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"migrate/testbed"
)

// interrupted is the exit status after a signal.
const interrupted = 130

// Main runs a program's command line and ends the process. Signals end the context of its action, which has to clean up.
func Main(app *cli.App) {
	if code, ran := testbed.Child(); ran {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A reader of the output that leaves must not kill the program before it has cleaned up. Caught and not ignored,
	// because what is started would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	app.ExitErrHandler = func(*cli.Context, error) {} // errors become text and exit codes in one place, below
	app.HideHelpCommand = true
	os.Exit(exitCode(ctx, os.Stderr, app.Name, app.RunContext(ctx, os.Args)))
}

// exitCode says what failed.
func exitCode(ctx context.Context, stderr io.Writer, name string, err error) int {
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		fmt.Fprintf(stderr, "%s: interrupted\n", name)
		return interrupted
	}
	fmt.Fprintf(stderr, "%s: %v\n", name, err)
	return 1
}
