package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"migrate/internal/fail"
	"migrate/transfer"
)

const fingerprintHelp = `Prints the fingerprint of this host's key, which is made if there is none. The key
identifies the host both as a source and as a destination.

EXAMPLES:
   migrate fingerprint`

func fingerprintCommand(env environment) *cli.Command {
	return &cli.Command{
		Name: "fingerprint", Usage: "print the fingerprint of this host's key", ArgsUsage: " ", Description: fingerprintHelp,
		Flags: []cli.Flag{stateDirFlag()},
		Action: func(c *cli.Context) error {
			if err := wantArgs(c); err != nil {
				return err
			}
			id, err := transfer.LoadOrCreateIdentity(c.String("state-dir"))
			if err != nil {
				return fail.New(fail.Auth, "load this host's key", err).With(c.String("state-dir"), "")
			}
			fmt.Fprintln(env.out, id.Fingerprint())
			return nil
		},
	}
}
