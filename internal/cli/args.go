package cli

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// completionFlag is what the shells' completion scripts put last.
const completionFlag = "--generate-bash-completion"

// reorder moves flags in front of positional arguments, since the flag parser stops at the first positional one:
// `migrate send redis b --json` becomes `migrate send --json redis b`. What it does not understand stays for the parser
// to complain about.
func reorder(app *cli.App, args []string) []string {
	if len(args) == 0 || slices.Contains(args, completionFlag) {
		return args
	}
	out := []string{args[0]}
	return append(out, reorderLevel(app.Flags, app.Commands, args[1:])...)
}

func reorderLevel(flags []cli.Flag, commands []*cli.Command, args []string) []string {
	var first, rest []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			return slices.Concat(first, []string{"--"}, rest, args[i+1:])
		case len(a) > 1 && a[0] == '-':
			first = append(first, a)
			if !takesValue(flags, a) {
				continue
			}
			if i++; i == len(args) {
				return first // a positional argument behind it would pass for its value
			}
			first = append(first, args[i])
		default:
			if c := find(commands, a); c != nil {
				return slices.Concat(first, rest, []string{a}, reorderLevel(c.Flags, c.Subcommands, args[i+1:]))
			}
			rest = append(rest, a)
		}
	}
	return append(first, rest...)
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// takesValue says whether the next argument belongs to this flag.
func takesValue(flags []cli.Flag, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range flags {
		if !slices.Contains(f.Names(), name) {
			continue
		}
		d, ok := f.(cli.DocGenerationFlag)
		return ok && d.TakesValue()
	}
	return false
}
