// Command torture moves programs that check their own memory between two hosts of a testbed of its own, to and fro, many
// times, and looks for pages that are not what they were.
//
//	go run ./testbed/cmd/torture --migrations 500
//	go run ./testbed/cmd/torture --cases mapchurn,forktree --migrations 40 --seed 7
//
// The programs are the cases of `workload churn`, some of which are real servers. Every case is moved with every tracker, and with its memory in place before
// it is resumed (eager) or filled in after that (lazy). Half of the moves are made with --verify, which compares every page of
// the restored processes with the frozen source's before the first instruction runs. Since that brings all memory into place,
// the other half is made without it, so that the program runs into pages that are not there yet. After every move, whatever
// its kind, the program checks all its memory itself.
//
// One move in six suffers a fault: an agent or the pager is killed, or the link is cut, at a random moment of a certain part of the
// move. What may become of the container then follows from the fault; exactly one copy runs after it, or, when the pager died,
// none, and there is a record of that. The program checks its memory, nothing may be left of the move, and the next
// move of the same container has to succeed.
//
// Everything else that is unexpected is a failure too: a move that does not succeed, output that is missing or there twice,
// memory that a fault handler is left on, processes of the mover that do not end. The exit status is 1 then.
package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"migrate/testbed/internal/rig"
)

func main() { rig.Main(app()) }

func app() *cli.App {
	return &cli.App{
		Name:  "torture",
		Usage: "move programs that check their own memory, many times, and look for wrong pages",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "migrations", Value: 500, Usage: "make `N` moves"},
			&cli.StringFlag{Name: "cases", Usage: "only these `CASES` of workload churn, with commas; default: all"},
			&cli.StringFlag{Name: "trackers", Value: allTrackers, Usage: "`TRACKERS` to find written memory with"},
			&cli.StringFlag{Name: "ways", Value: wayLazy + "," + wayEager, Usage: "`WAYS` to bring memory into place: lazy, eager"},
			&cli.StringFlag{Name: "verify", Value: verifyHalf, Usage: "`SHARE` of the moves with --verify: half, all, none"},
			&cli.IntFlag{Name: "faults", Value: 6, Usage: "have one move in `N` suffer a fault; 0: none"},
			&cli.IntFlag{Name: "hops", Value: 4, Usage: "move each container `N` times"},
			&cli.IntFlag{Name: "mib", Value: 24, Usage: "memory of each program in `MIB`, roughly"},
			&cli.Uint64Flag{Name: "seed", Value: 1, Usage: "what order and contents follow from"},
			&cli.StringFlag{Name: "link", Value: "none", Usage: "`RATE` of each host's link: none, 100mbit, 1gbit, 10gbit"},
			&cli.StringFlag{Name: "out", Value: "build/torture.json", Usage: "`FILE` for the results"},
			&cli.StringFlag{Name: "binary", Usage: "built migrate to try; default: built with go"},
			&cli.StringFlag{Name: "name", Value: "torture", Usage: "of the testbed"},
			&cli.StringSliceFlag{Name: "send-flag", Usage: "further `FLAG` of migrate send"},
		},
		Action: torture,
	}
}

// torture is the whole run. What there is of results is written even when it is interrupted.
func torture(c *cli.Context) (err error) {
	o, err := parse(c)
	if err != nil {
		return err
	}
	l, err := setUp(c.Context, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close(context.WithoutCancel(c.Context))) }()
	res := newResults(o)
	runErr := l.runAll(c.Context, res, c.App.ErrWriter)
	res.finish()
	if err := errors.Join(runErr, res.write(o.out)); err != nil {
		return err
	}
	printTable(c.App.Writer, res)
	fmt.Fprintf(c.App.Writer, "\nall results are in %s\n", o.out)
	return res.verdict()
}
