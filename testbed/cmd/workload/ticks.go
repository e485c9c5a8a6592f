package main

import (
	"bufio"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// A tickReport tells whether a server's output is whole.
type tickReport struct {
	Ticks    uint64 `json:"ticks"`
	First    uint64 `json:"first"`
	Last     uint64 `json:"last"`
	Missing  uint64 `json:"missing"`
	Repeated uint64 `json:"repeated"` // numbers not above the one before
	Torn     uint64 `json:"torn"`     // lines that are not understood
}

func (r tickReport) sound() bool { return r.Missing == 0 && r.Repeated == 0 && r.Torn == 0 }

func ticksCommand() *cli.Command {
	return &cli.Command{
		Name:  "ticks",
		Usage: "check the server's output on standard input for missing and repeated lines",
		Action: func(c *cli.Context) error {
			r, err := readTicks(os.Stdin)
			if err != nil {
				return err
			}
			return report(c.App.Writer, r, r.sound())
		},
	}
}

func readTicks(in io.Reader) (tickReport, error) {
	var r tickReport
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		n, ok := tickNumber(lines.Text())
		if !ok {
			r.Torn++
			continue
		}
		r.add(n)
	}
	return r, lines.Err()
}

func (r *tickReport) add(n uint64) {
	switch r.Ticks++; {
	case r.Ticks == 1:
		r.First, r.Last = n, n
	case n <= r.Last:
		r.Repeated++
	default:
		r.Missing += n - r.Last - 1
		r.Last = n
	}
}

func tickNumber(line string) (uint64, bool) {
	fields := strings.Fields(line)
	if len(fields) != 3 || fields[0] != "tick" {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[1], 10, 64)
	return n, err == nil
}
