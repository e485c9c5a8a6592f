package cli

import (
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"migrate/internal/drain"
	"migrate/internal/filler"
	"migrate/internal/pager"
)

// pagerCommand is the hidden command under which a destination agent starts this program as a pager.
const pagerCommand = "pager"

// runPager is `migrate pager JOB`: see pager.RunMain.
func runPager(args []string, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "pager: it is started by migrate recv, not by hand")
		return 2
	}
	return pager.RunMain(args[0])
}

// fillerCommand is the hidden command under which a destination agent starts this program to put shared memory in.
const fillerCommand = "filler"

// runFiller is `migrate filler`: see filler.Run.
func runFiller(args []string, in io.Reader, out, stderr io.Writer) int {
	if len(args) != 0 {
		fmt.Fprintln(stderr, "filler: it is started by migrate recv, not by hand")
		return 2
	}
	signal.Ignore(syscall.SIGPIPE) // an agent that died reads nothing any more
	return filler.Run(in, out)
}

// drainCommand is the hidden command under which a destination agent starts this program to read a container's output.
const drainCommand = "drain"

// runDrain is `migrate drain JOB`: see drain.RunMain.
func runDrain(args []string, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "drain: it is started by migrate recv, not by hand")
		return 2
	}
	return drain.RunMain(args[0])
}
