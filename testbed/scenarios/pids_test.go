package scenarios

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"migrate/testbed"
)

// TestMovePids checks that what a container starts after a move gets the pids that it would have got without: a child has one beyond that of its
// parent, and nothing gets one that another process had a moment ago.
func TestMovePids(t *testing.T) {
	t.Parallel()
	const id = "counted"
	const script = `i=0; while [ $i -lt 60 ]; do /bin/true; i=$((i+1)); done
		sh -c 'while :; do sh -c "echo pid \$\$"; sleep 0.2; done'; exit 1`
	s := runContainer(t, hostA, testbed.ContainerSpec{ID: id, Image: "testbed/tools:latest", Args: []string{"sh", "-euc", script}})
	pids := func(h *testbed.Host) (list []int) {
		text, _ := os.ReadFile(h.Path("/var/log/" + id + ".log")) // at first there is none
		for line := range strings.Lines(string(text)) {
			var pid int
			if _, err := fmt.Sscanf(line, "pid %d\n", &pid); err == nil {
				list = append(list, pid)
			}
		}
		return list
	}
	eventually(t, soon, "the container starts processes", func() bool { return len(pids(hostA)) > 3 })
	to := startAgent(t, hostB)
	send(t, hostA, id, to, "--json").moved(t)
	eventually(t, soon, "it starts processes at the destination", func() bool { return len(pids(hostB)) > 3 })
	s.assertMoved(t, hostA, hostB)
	// a process that was under way is in the middle of them
	if all := append(pids(hostA), pids(hostB)...); !slices.IsSorted(all) {
		t.Errorf("its processes get the pids %v at one host and %v at the other", pids(hostA), pids(hostB))
	}
}
