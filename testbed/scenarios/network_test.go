package scenarios

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"migrate/internal/preflight"
	"migrate/testbed"
	"migrate/testbed/internal/child"
)

// natConf is a network behind each host's own address, as nerdctl makes them: containers are reached through port mappings. Each
// host gives out addresses of its own and takes those of the others.
func natConf(h *testbed.Host) string {
	var v4, v6 []string
	for _, first := range map[bool][]int{true: {10, 100}, false: {100, 10}}[h == hostA] {
		v4 = append(v4, fmt.Sprintf(`{"subnet": "172.31.77.0/24", "rangeStart": "172.31.77.%d", "rangeEnd": "172.31.77.%d"}`, first, first+80))
		v6 = append(v6, fmt.Sprintf(`{"subnet": "fd31:77::/64", "rangeStart": "fd31:77::%d", "rangeEnd": "fd31:77::%d"}`, first, first+80))
	}
	return fmt.Sprintf(`{
		"cniVersion": "1.0.0", "name": "nat",
		"plugins": [
			{"type": "bridge", "bridge": "br-nat", "isGateway": true, "isDefaultGateway": true, "ipMasq": true,
				"ipam": {"type": "host-local", "ranges": [[%s], [%s]]}},
			{"type": "portmap", "capabilities": {"portMappings": true}}
		]
	}`, strings.Join(v4, ", "), strings.Join(v6, ", "))
}

// addNetwork gives hosts a CNI network and returns its file.
func addNetwork(t *testing.T, name string, conf func(*testbed.Host) string, hosts ...*testbed.Host) string {
	t.Helper()
	path := "/etc/cni/net.d/20-" + name + ".conflist"
	for _, h := range hosts {
		writeAt(t, h, path, conf(h))
	}
	return path
}

// attachedServer starts the test program in a container with networks of its own, and takes it off them in the end.
func attachedServer(t *testing.T, h *testbed.Host, spec testbed.ContainerSpec) *subject {
	t.Helper()
	spec.Image, spec.Network = "testbed/tools:latest", testbed.NetworkCNI
	spec.Args = []string{"workload", "server", "--listen=:7000", "--memory-mib", "1"}
	s := runContainer(t, h, spec)
	t.Cleanup(func() {
		for _, h := range bed.Hosts() {
			if exists(h.Path("/run/netns/" + spec.ID)) {
				_, _ = try(h, child.DetachCommand(child.Attachment{ID: spec.ID, Netns: "/run/netns/" + spec.ID, Confs: spec.Confs, Ports: spec.Ports})...)
			}
		}
	})
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, h, spec.ID)) > 1 })
	return s
}

// mappings are the rules on a host that lead a port into a container.
func mappings(t *testing.T, h *testbed.Host, port int) []string {
	t.Helper()
	return lines(shell(t, h, `{ iptables-save -t nat; ip6tables-save -t nat; } | grep -E "(dport|dports) $1 " | grep DNAT || true`, fmt.Sprint(port)))
}

// answers says whether something serves the test program's clients at an address.
func answers(addr string) bool {
	_, err := try(hostC, "workload", "client", "--addr", addr, "--duration", "50ms", "--timeout", "2s")
	return err == nil
}

// mapped checks that a port leads into the container at one host, over IPv4 and IPv6, and nowhere at the other.
func mapped(t *testing.T, at, not *testbed.Host, port int) {
	t.Helper()
	for _, ip := range []string{at.Addr().String(), "[" + at.Addr6().String() + "]"} {
		addr := fmt.Sprintf("%s:%d", ip, port)
		eventually(t, soon, "the port mapping works at "+addr, func() bool { return answers(addr) })
	}
	if rules := mappings(t, not, port); len(rules) > 0 {
		t.Errorf("%s still maps port %d:\n%s", not.Name, port, strings.Join(rules, "\n"))
	}
	if addr := fmt.Sprintf("%s:%d", not.Addr(), port); answers(addr) {
		t.Errorf("something answers at %s", addr)
	}
}

// TestPortMapping moves a container with a port of the host that leads to it, there and back.
func TestPortMapping(t *testing.T) {
	t.Parallel()
	const id, port = "ports", 18080
	conf := addNetwork(t, "nat", natConf, hostA, hostB)
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	spec := testbed.ContainerSpec{ID: id, Confs: []string{conf}, Ports: []string{fmt.Sprintf("%d:7000/tcp", port)}}
	s := attachedServer(t, hostA, spec)
	mapped(t, hostA, hostB, port)

	t.Run("taken by a program", func(t *testing.T) {
		listener := start(t, hostB, "workload", "server", fmt.Sprintf("--listen=:%d", port), "--memory-mib", "1")
		eventually(t, soon, "the other program listens", func() bool { return answers(fmt.Sprintf("%s:%d", hostB.Addr(), port)) })
		send(t, hostA, id, agents[hostB]).failed(t, 4, fmt.Sprint(port), "in use", "never stopped")
		_ = listener.cmd.Process.Kill()
		listener.wait(t, soon)
		s.assertStayed(t, hostA, hostB)
	})
	t.Run("taken by a container", func(t *testing.T) {
		other := attachedServer(t, hostB, testbed.ContainerSpec{ID: "ports-other", Confs: []string{conf}, Ports: spec.Ports})
		send(t, hostA, id, agents[hostB]).failed(t, 4, fmt.Sprint(port), "in use", other.id, "never stopped")
		s.assertStayed(t, hostA, hostB)
	})
	t.Run("roll-back", func(t *testing.T) {
		hit := fault(t, hostB, id, atRestore, `exit 1`)
		send(t, hostA, id, agents[hostB]).failed(t, 8, "runs on at the source")
		if !hit() {
			t.Error("CRIU was not made to fail")
		}
		removeFault(t, id)
		mapped(t, hostA, hostB, port)
		s.assertStayed(t, hostA, hostB)
	})
	from := hostA
	for _, to := range []*testbed.Host{hostB, hostA} {
		s.addr = fmt.Sprintf("%s:%d", from.Addr(), port)
		s.connect(t)
		rep := send(t, from, id, agents[to], "--json").moved(t)
		s.client = nil // its connection was to the other host's address
		mapped(t, to, from, port)
		s.assertMoved(t, from, to)
		assertOutputWhole(t, id, to)
		assertNothingUnderWay(t, to, agents[to].dir)
		if !slices.ContainsFunc(rep.Findings, func(f preflight.Finding) bool { return f.Code == "tcp-translated" }) {
			t.Errorf("the report does not tell of the connection that was lost: %v", rep.Findings)
		}
		from = to
	}
}
