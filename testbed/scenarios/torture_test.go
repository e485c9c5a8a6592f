package scenarios

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"

	"migrate/testbed"
)

// A churned container runs a case of `workload churn`, which checks its own memory.
type churned struct {
	*subject
	name  string
	asked int
}

// churnLine is a line of its output that is no tick.
type churnLine struct {
	Started  string          `json:"started"`
	Verified bool            `json:"verified"`
	Number   int             `json:"number"`
	Pages    int             `json:"pages"`
	Damaged  json.RawMessage `json:"damaged"`
}

// TestTorture moves programs that are hard on their memory, there with every page compared before they are resumed, and back
// without; after both moves they check all of it themselves. It is a sample of what `make torture` does for hours.
func TestTorture(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		flags []string
	}{
		{"mapchurn", []string{"--tracker", "wp"}},
		{"forktree", []string{"--tracker", "wp"}},
		{"guard", []string{"--tracker", "wp"}},
		{"goheap", []string{"--tracker", "wp"}},
		{"dontneed", []string{"--tracker", "hash"}},
		{"shared", []string{"--tracker", "wp", "--eager"}},
		{"memfile", []string{"--tracker", "wp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := runChurned(t, "torture-"+c.name, c.name)
			for _, hop := range []struct {
				from, to *testbed.Host
				verify   bool
			}{{hostA, hostB, true}, {hostB, hostA, false}} {
				flags := append([]string{"--json"}, c.flags...)
				if hop.verify {
					flags = append(flags, "--verify")
				}
				to := startAgent(t, hop.to)
				rep := send(t, hop.from, s.id, to, flags...).moved(t)
				if hop.verify && rep.Verified <= 0 {
					t.Errorf("%d pages were compared", rep.Verified)
				}
				own := s.verify(t, hop.to, rep.Pid)
				s.assertMoved(t, hop.from, hop.to)
				assertNothingUnderWay(t, hop.to, to.dir)
				t.Logf("to %s: %d pages compared, %d checked by the program", hop.to.Name, rep.Verified, own)
			}
		})
	}
}

// runChurned starts a case on host a and returns when it is at work.
func runChurned(t *testing.T, id, name string) *churned {
	t.Helper()
	s := &churned{name: name, subject: runContainer(t, hostA, testbed.ContainerSpec{
		ID: id, Image: "testbed/tools:latest", Args: []string{"workload", "churn", "--case", name, "--mib", "16"},
	})}
	eventually(t, soon, "the case begins", func() bool {
		all := s.lines(hostA)
		return len(all) > 0 && all[0].Started == name
	})
	return s
}

func (s *churned) lines(h *testbed.Host) (all []churnLine) {
	text, _ := os.ReadFile(h.Path("/var/log/" + s.id + ".log"))
	for _, l := range lines(string(text)) {
		var c churnLine
		if json.Unmarshal([]byte(l), &c) == nil {
			all = append(all, c)
		}
	}
	return all
}

// verify has the program, whose first process has that pid on h, check all its memory.
func (s *churned) verify(t *testing.T, h *testbed.Host, pid int) (pages int) {
	t.Helper()
	s.asked++
	run(t, h, "kill", "-USR1", strconv.Itoa(pid))
	done := within(later, func() bool {
		for _, l := range s.lines(h) {
			if l.Damaged != nil {
				t.Fatalf("%s: memory is wrong: %s", h.Name, l.Damaged)
			}
			if l.Verified && l.Number == s.asked {
				pages = l.Pages
			}
		}
		return pages > 0 || status(t, h, s.id) != "RUNNING"
	})
	if !done || pages == 0 {
		text, _ := os.ReadFile(h.Path("/var/log/" + s.id + ".log"))
		kept := make([]string, 0)
		for _, l := range lines(string(text)) {
			if !strings.HasPrefix(l, "tick ") {
				kept = append(kept, l)
			}
		}
		t.Fatalf("%s: the program does not check its memory\n%s", h.Name, clip(strings.Join(kept, "\n")))
	}
	return pages
}
