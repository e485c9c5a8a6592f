package scenarios

import (
	"strings"
	"testing"
)

// TestLeftoversAreFound makes sure that the search which all other tests rely on finds what there is of a running container.
func TestLeftoversAreFound(t *testing.T) {
	t.Parallel()
	const id = "found"
	runServer(t, hostA, id, serverFlags{memory: 1, noClient: true})
	found := strings.Join(leftOf(hostA, id), "\n")
	for _, what := range []string{"container record", "task", "snapshot", "/run/netns/", "address reservation", "cgroup", "process", "mount"} {
		if !strings.Contains(found, what) {
			t.Errorf("the search for leftovers does not find the %s:\n%s", what, found)
		}
	}
	if left := leftOf(hostB, id); len(left) > 0 {
		t.Errorf("host b has %v", left)
	}
}
