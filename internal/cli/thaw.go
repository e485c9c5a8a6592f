package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/migrate"
)

const thawHelp = `Lets a container run on that a migration left frozen here because the
destination's answer never came (exit code 12). Find out at the destination first
whether the container runs there. If it does, delete the frozen one here instead:
two running copies of one container destroy data and break connections.

EXAMPLES:
   migrate thaw redis
   migrate thaw redis --yes      without a question, for scripts`

func thawCommand(env environment) *cli.Command {
	return &cli.Command{
		Name: "thaw", Usage: "let a container run on that a migration in doubt left frozen", ArgsUsage: "CONTAINER", Description: thawHelp,
		Flags: append(engineFlags(),
			&cli.BoolFlag{Name: "yes", Usage: "do not ask: the container does not run at the destination and never will"},
			&cli.StringFlag{Name: "run-dir", Value: defaultRunDir, Usage: "`DIR` of locks", TakesFile: true}, stateDirFlag(),
		),
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, "CONTAINER"); err != nil {
				return err
			}
			if err := needRoot(env); err != nil {
				return err
			}
			eng, spec, err := specOf(c).find(c.Context, slog.New(slog.DiscardHandler), c.Args().First())
			if err != nil {
				return err
			}
			defer eng.Close()
			if err := migrate.Given(c.String("run-dir"), spec.Namespace, c.Args().First()); err != nil {
				return err
			}
			return thaw(c.Context, eng, c.Args().First(), func(id string) error { return confirm(env, id, c.Bool("yes")) }, env.err)
		},
	}
}

// thaw resumes the container and opens its network. sure is asked in between.
func thaw(ctx context.Context, eng engine.Source, id string, sure func(string) error, stderr io.Writer) error {
	where := "source, thaw"
	_, unlock, err := eng.Lock(ctx, id)
	if err != nil {
		return fail.New(fail.Container, "thaw container "+id, err).With(where, "wait until the migration that is under way is over, or end it")
	}
	defer unlock(context.WithoutCancel(ctx))
	switch _, _, err := eng.Inspect(ctx, id); {
	case err == nil:
		return &fail.Fault{Code: fail.Container, What: "thaw container " + id, Where: where, Why: "it is not frozen: it runs"}
	case !errors.Is(err, engine.ErrPaused):
		return fail.New(fail.Container, "thaw container "+id, err).With(where, "check the name, --namespace and --address")
	}
	if err := sure(id); err != nil {
		return err
	}
	if err := eng.Resume(ctx, id); err != nil {
		return fail.New(fail.Internal, "thaw container "+id, err).With(where, "see whether the engine answers, and try again")
	}
	// the engine tells the network namespace of running containers only
	_, h, err := eng.Inspect(ctx, id)
	if err == nil {
		err = openNetwork(h.NetNS)
	}
	if err != nil {
		f := fail.New(fail.Internal, "open the network of container "+id, err).With(where, "pause the container with the engine's own tools and thaw it again")
		f.State = "the container runs, its network may be locked"
		return f
	}
	fmt.Fprintf(stderr, "%s runs here; it must never run at the destination of the migration that froze it\n", id)
	return nil
}

// confirm asks the person, since only they can know.
func confirm(env environment, id string, yes bool) error {
	if yes {
		return nil
	}
	f, ok := env.in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return usage("thaw needs a confirmation", "say --yes if the container does not run at the destination and never will")
	}
	fmt.Fprintf(env.err, "Two running copies of %s would destroy data. Are you sure that it does not run at the destination? [y/N] ", id)
	line, _ := bufio.NewReader(env.in).ReadString('\n')
	if s := strings.ToLower(strings.TrimSpace(line)); s == "y" || s == "yes" {
		return nil
	}
	return &fail.Fault{Code: fail.Cancelled, What: "thaw container " + id, Why: "not confirmed", State: "the container stays frozen"}
}
