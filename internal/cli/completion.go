package cli

import (
	"embed"
	"fmt"

	"github.com/urfave/cli/v2"

	"migrate/internal/fail"
)

const completionHelp = `Prints the script that teaches a shell to complete migrate's commands and flags.

EXAMPLES:
   source <(migrate completion bash)
   migrate completion bash > /etc/bash_completion.d/migrate
   migrate completion zsh > "${fpath[1]}/_migrate"
   migrate completion fish > ~/.config/fish/completions/migrate.fish`

// The scripts ask the program itself, with completionFlag, so they need no change when commands do.
//
//go:embed completion/migrate.bash completion/migrate.zsh
var completionScripts embed.FS

func completionCommand(env environment) *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print a shell's completion script", ArgsUsage: "bash|zsh|fish", Description: completionHelp,
		BashComplete: func(*cli.Context) { fmt.Fprintln(env.out, "bash\nzsh\nfish") },
		Action: func(c *cli.Context) error {
			if err := wantArgs(c, "SHELL"); err != nil {
				return err
			}
			text, err := completionScript(c.App, c.Args().First())
			if err != nil {
				return err
			}
			fmt.Fprint(env.out, text)
			return nil
		},
	}
}

func completionScript(app *cli.App, shell string) (string, error) {
	switch shell {
	case "bash", "zsh":
		b, err := completionScripts.ReadFile("completion/migrate." + shell)
		if err != nil {
			return "", fail.New(fail.Internal, "read the completion script", err)
		}
		return string(b), nil
	case "fish":
		text, err := app.ToFishCompletion()
		if err != nil {
			return "", fail.New(fail.Internal, "make the completion script", err)
		}
		return text, nil
	}
	return "", usage(fmt.Sprintf("shell %q is unknown", shell), "choose bash, zsh or fish")
}
