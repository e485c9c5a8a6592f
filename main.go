// Command migrate moves running containers between hosts. See package cli for its commands.
package main

import (
	"os"

	"migrate/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args)) }
