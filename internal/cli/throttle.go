package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"migrate/internal/cgroup"
	"migrate/internal/throttle"
)

// throttleCommand is the hidden command under which a source agent starts this program to keep a container's CPU limit.
const throttleCommand = "throttle"

// runThrottle is `migrate throttle QUOTA`: see throttle.Keep.
func runThrottle(args []string, control io.Reader, answers, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "throttle: it is started by migrate send, not by hand")
		return 2
	}
	var q cgroup.Quota
	if err := json.Unmarshal([]byte(args[0]), &q); err != nil {
		fmt.Fprintf(stderr, "throttle: decode quota: %v\n", err)
		return 2
	}
	signal.Ignore(syscall.SIGPIPE) // an agent that died reads nothing any more
	return throttle.Keep(&q, control, answers)
}
