package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/urfave/cli/v2"

	"migrate/testbed/cmd/workload/internal/hold"
)

// holdResult is printed once a kind is held.
type holdResult struct {
	Kind string `json:"kind"`
	hold.Held
}

func holdCommand() *cli.Command {
	return &cli.Command{
		Name: "hold", Usage: "keep things open that a checkpoint has to cope with, or cannot",
		Description: "Kinds: " + strings.Join(hold.Kinds(), ", "),
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "kind", Required: true, Usage: "`KIND` of thing, may be repeated"},
			&cli.StringFlag{Name: "dir", Value: ".", Usage: "`DIR` for files and sockets with names"},
		},
		Action: func(c *cli.Context) error {
			var held []hold.Held
			for _, kind := range c.StringSlice("kind") {
				h, err := hold.Open(kind, c.String("dir"))
				if err != nil {
					return err
				}
				held = append(held, h)
				if err := json.NewEncoder(os.Stdout).Encode(holdResult{kind, h}); err != nil {
					return fmt.Errorf("print what is held: %w", err)
				}
			}
			<-c.Context.Done()
			runtime.KeepAlive(held)
			return nil
		},
	}
}
