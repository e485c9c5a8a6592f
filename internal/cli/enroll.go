package cli

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"migrate/internal/fail"
	"migrate/transfer"
)

const enrollHelp = `Makes a token with which one other host may enrol as a source at this one, once.
Run it where migrate recv runs, and give the token to migrate send --token on the
other host over a channel you trust. The token also tells that host this host's
key, so that nothing has to be compared by hand.

EXAMPLES:
   migrate enroll
   migrate enroll --ttl 1h`

// maxTTL bounds how long a lost token is a danger.
const maxTTL = 30 * 24 * time.Hour

func enrollCommand(env environment) *cli.Command {
	return &cli.Command{
		Name: "enroll", Usage: "make a token that lets another host send here", ArgsUsage: " ", Description: enrollHelp,
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "ttl", Value: 10 * time.Minute, Usage: "`TIME` for which the token is valid"},
			stateDirFlag(),
		},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			ttl := c.Duration("ttl")
			if ttl <= 0 || ttl > maxTTL {
				return usage(fmt.Sprintf("--ttl %v is out of range", ttl), fmt.Sprintf("choose more than 0 and at most %v", maxTTL))
			}
			return enroll(env, c.String("state-dir"), ttl)
		},
	}
}

// enroll prints the token alone on standard output, so that scripts can take it.
func enroll(env environment, stateDir string, ttl time.Duration) error {
	id, err := transfer.LoadOrCreateIdentity(stateDir)
	if err != nil {
		return fail.New(fail.Auth, "load this host's key", err).With(stateDir, "")
	}
	auth, err := transfer.NewAuthorizer(stateDir)
	if err != nil {
		return fail.New(fail.Auth, "store the token", err).With(stateDir, "")
	}
	text, rec, err := transfer.NewToken(id, ttl)
	if err != nil {
		return fail.New(fail.Auth, "make a token", err)
	}
	if err := auth.AddToken(rec); err != nil {
		return fail.New(fail.Auth, "store the token", err).With(stateDir, "")
	}
	fmt.Fprintf(env.err, "valid once, until %s:\n", rec.Expires.Format(time.RFC3339))
	fmt.Fprintln(env.out, text)
	return nil
}
