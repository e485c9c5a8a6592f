package scenarios

import (
	"encoding/json"
	"slices"
	"strings"
	"syscall"
	"testing"

	"migrate/testbed"
)

// A trafficClient uses a server in one of the ways in which programs use TCP, and checks every byte.
type trafficClient struct {
	*process
	name string
}

// A trafficResult is what `workload traffic` says, again and again.
type trafficResult struct {
	Connections int64  `json:"connections"`
	Requests    int64  `json:"requests"`
	Bytes       int64  `json:"bytes"`
	Wrong       int64  `json:"wrong_bytes"`
	Resets      int64  `json:"resets"`
	Errors      int64  `json:"errors"`
	Error       string `json:"error"`
	Longest     struct {
		MS float64 `json:"ms"`
	} `json:"longest"`
}

func (r trafficResult) progress() int64 { return r.Requests + r.Bytes }

// startTraffic starts a client of each kind for both versions of IP. None takes all that the machine has.
func startTraffic(t *testing.T, s *subject) (clients []trafficClient) {
	t.Helper()
	for _, addr := range slices.DeleteFunc([]string{s.addr, s.addr6}, func(a string) bool { return a == "" }) {
		for _, kind := range []string{"request-reply", "pipelined", "download", "upload", "connect"} {
			p := start(t, s.clients(), "workload", "traffic", "--kind", kind, "--addr", addr, "--interval", "10ms", "--rate", "4000000", "--report", "100ms")
			clients = append(clients, trafficClient{p, kind + " " + addr})
		}
	}
	goOn(t, clients)
	return clients
}

func (c trafficClient) last() (r trafficResult) {
	for _, l := range slices.Backward(strings.SplitAfter(c.stdout.String(), "\n")) {
		if strings.HasSuffix(l, "\n") && json.Unmarshal([]byte(l), &r) == nil {
			return r
		}
	}
	return trafficResult{}
}

// goOn checks that every client gets on from here.
func goOn(t *testing.T, clients []trafficClient) {
	t.Helper()
	for _, c := range clients {
		before := c.last().progress()
		eventually(t, later, "client "+c.name+" gets on", func() bool {
			if r := c.last(); c.ended() || r.Errors > 0 {
				t.Fatalf("client %s has failed: %+v\n%s", c.name, r, c.stderr.String())
			}
			return c.last().progress() > before
		})
	}
}

// endTraffic ends the clients and checks that nothing went wrong for them.
func endTraffic(t *testing.T, clients []trafficClient) {
	t.Helper()
	for _, c := range clients {
		c.signal(t, syscall.SIGINT)
	}
	for _, c := range clients {
		code := c.wait(t, later)
		r := c.last()
		t.Logf("%-40s %8d requests %10d bytes %6d connections, longest silence %.0f ms", c.name, r.Requests, r.Bytes, r.Connections, r.Longest.MS)
		if code != 0 || r.Wrong != 0 || r.Resets != 0 || r.Errors != 0 {
			t.Errorf("client %s ends with status %d: %+v\n%s", c.name, code, r, c.stderr.String())
		}
	}
}

// TestTraffic moves a server to and fro under all kinds of clients. Each of them lives through all of it.
func TestTraffic(t *testing.T) {
	t.Parallel()
	const id = "traffic"
	s := runServer(t, hostA, id, serverFlags{memory: 4, dirty: 200, noClient: true})
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	clients := startTraffic(t, s)
	for _, hop := range [][2]*testbed.Host{{hostA, hostB}, {hostB, hostA}, {hostA, hostB}} {
		from, to := hop[0], hop[1]
		rep := send(t, from, id, agents[to], "--json").moved(t)
		checkReport(t, rep)
		// all clients have sent something meanwhile, and no more than there is room for
		if rep.Packets < int64(len(clients)) || rep.PacketsLost != 0 {
			t.Errorf("from %s to %s %d packets were kept and %d lost", from.Name, to.Name, rep.Packets, rep.PacketsLost)
		}
		goOn(t, clients)
		s.assertMoved(t, from, to)
		assertNothingUnderWay(t, to, agents[to].dir)
	}
	endTraffic(t, clients)
	assertOutputWhole(t, id, hostB)
}

// TestTrafficRollBack has the move of such a server fail when it stands still already. It gets what was kept.
func TestTrafficRollBack(t *testing.T) {
	t.Parallel()
	r := chosen(t)
	const id = "traffic-back"
	s := runServer(t, r.a, id, serverFlags{memory: 4, dirty: 200, noClient: true})
	to := startAgent(t, r.b)
	clients := startTraffic(t, s)
	fault(t, r.b, id, atRestore, `sleep 0.5; exit 1`)
	for range 2 {
		send(t, r.a, id, to).failed(t, 8, "runs on at the source")
		goOn(t, clients)
		s.assertStayed(t, r.a, r.b)
	}
	endTraffic(t, clients)
	assertNothingUnderWay(t, r.b, to.dir)
}
