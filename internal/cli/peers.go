package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/internal/fail"
	"migrate/transfer"
)

const peersHelp = `Lists, adds and removes the hosts that may send to this one. Each is known by the
fingerprint of its key, which migrate fingerprint prints there. Changes count at
once, without a restart of migrate recv.

EXAMPLES:
   migrate peers
   migrate peers add SHA256:… rack 3, host a
   migrate peers remove SHA256:…`

func peersCommand(env environment) *cli.Command {
	return &cli.Command{
		Name: "peers", Usage: "list, add or remove hosts that may send here", ArgsUsage: " ", Description: peersHelp,
		Flags: []cli.Flag{stateDirFlag()},
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "let a host send here", ArgsUsage: "FINGERPRINT [COMMENT]", Flags: []cli.Flag{stateDirFlag()},
				Action: func(c *cli.Context) error { return addPeer(c, env) },
			},
			{
				Name: "remove", Usage: "let a host send here no longer", ArgsUsage: "FINGERPRINT", Flags: []cli.Flag{stateDirFlag()},
				Action: func(c *cli.Context) error { return removePeer(c, env) },
			},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usage(fmt.Sprintf("unknown command %q", "peers "+c.Args().First()), "it is peers, peers add or peers remove")
			}
			return listPeers(c, env)
		},
	}
}

func listPeers(c *cli.Context, env environment) error {
	lines, err := authorizedLines(c.String("state-dir"))
	if err != nil {
		return err
	}
	for _, l := range lines {
		if isPeer(l) {
			fmt.Fprintln(env.out, strings.TrimSpace(l))
		}
	}
	return nil
}

func addPeer(c *cli.Context, env environment) error {
	if c.NArg() == 0 {
		return usage("FINGERPRINT is missing", "migrate fingerprint prints it at the other host")
	}
	fp, comment := c.Args().First(), strings.Join(c.Args().Tail(), " ")
	if err := checkFingerprint(fp); err != nil {
		return err
	}
	auth, err := transfer.NewAuthorizer(stateDirOf(c))
	if err != nil {
		return fail.New(fail.Auth, "add a peer", err)
	}
	if err := auth.Authorize(fp, comment); err != nil {
		return fail.New(fail.Auth, "add a peer", err)
	}
	fmt.Fprintf(env.err, "%s may send here\n", fp)
	return nil
}

func removePeer(c *cli.Context, env environment) error {
	if err := wantArgs(c, "FINGERPRINT"); err != nil {
		return err
	}
	fp, dir := c.Args().First(), stateDirOf(c)
	if err := checkFingerprint(fp); err != nil {
		return err
	}
	lines, err := authorizedLines(dir)
	if err != nil {
		return err
	}
	var keep []string
	for _, l := range lines {
		if !isPeer(l) || strings.Fields(l)[0] != fp {
			keep = append(keep, l)
		}
	}
	if len(keep) == len(lines) {
		return fail.New(fail.Auth, "remove a peer", fmt.Errorf("%s is not among the peers", fp)).With("", "migrate peers lists them")
	}
	if err := replaceFile(authorizedPath(dir), strings.Join(keep, "\n")+"\n"); err != nil {
		return fail.New(fail.Auth, "remove a peer", err)
	}
	fmt.Fprintf(env.err, "%s may no longer send here; a migration that is under way is not ended\n", fp)
	return nil
}

// stateDirOf takes the flag also when it was given before the sub-command.
func stateDirOf(c *cli.Context) string {
	for _, level := range c.Lineage() {
		if level.IsSet("state-dir") {
			return level.String("state-dir")
		}
	}
	return c.String("state-dir")
}

func checkFingerprint(fp string) error {
	if _, err := transfer.ParseFingerprint(fp); err != nil {
		return usage(err.Error(), "migrate fingerprint prints it at the other host")
	}
	return nil
}

// authorizedPath is the file that transfer.Authorizer reads at each decision.
func authorizedPath(stateDir string) string { return filepath.Join(stateDir, "authorized_peers") }

func authorizedLines(stateDir string) ([]string, error) {
	b, err := os.ReadFile(authorizedPath(stateDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fail.New(fail.Auth, "read the authorized peers", err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), nil
}

// isPeer tells entries from comments and empty lines, which are the owner's and stay.
func isPeer(line string) bool {
	f := strings.Fields(line)
	return len(f) > 0 && !strings.HasPrefix(f[0], "#")
}

// replaceFile leaves the old content or the new one, whatever happens.
func replaceFile(path, text string) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(text)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
