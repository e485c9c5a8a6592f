package scenarios

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"migrate/internal/preflight"
	"migrate/testbed"
	"migrate/testbed/internal/child"
)

// natConf makes a network behind each host's own address, as nerdctl makes them: containers are reached through port mappings.
// Each host gives out addresses of its own and takes those of the others.
func natConf(name string, subnet int) func(h *testbed.Host) string {
	return func(h *testbed.Host) string {
		var v4, v6 []string
		for _, first := range map[bool][]int{true: {10, 100}, false: {100, 10}}[h == hostA] {
			v4 = append(v4, fmt.Sprintf(`{"subnet": "172.31.%[1]d.0/24", "rangeStart": "172.31.%[1]d.%[2]d", "rangeEnd": "172.31.%[1]d.%[3]d"}`, subnet, first, first+80))
			v6 = append(v6, fmt.Sprintf(`{"subnet": "fd31:%[1]d::/64", "rangeStart": "fd31:%[1]d::%[2]d", "rangeEnd": "fd31:%[1]d::%[3]d"}`, subnet, first, first+80))
		}
		return fmt.Sprintf(`{
			"cniVersion": "1.0.0", "name": %q,
			"plugins": [
				{"type": "bridge", "bridge": "br-%s", "isGateway": true, "isDefaultGateway": true, "ipMasq": true,
					"ipam": {"type": "host-local", "ranges": [[%s], [%s]]}},
				{"type": "portmap", "capabilities": {"portMappings": true}}
			]
		}`, name, name, strings.Join(v4, ", "), strings.Join(v6, ", "))
	}
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
	if len(spec.Args) == 0 {
		spec.Args = []string{"workload", "server", "--listen=:7000", "--memory-mib", "1"}
	}
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
func answers(addr string) bool { return answersAt(hostC, addr) }

func answersAt(h *testbed.Host, addr string) bool {
	_, err := try(h, "workload", "client", "--addr", addr, "--duration", "50ms", "--timeout", "2s")
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
	conf := addNetwork(t, "nat", natConf("nat", 77), hostA, hostB)
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

// TestOtherNetwork moves a container to another network and back. Its address changes, so nothing may depend on that.
func TestOtherNetwork(t *testing.T) {
	t.Parallel()
	const id, bound = "elsewhere", "elsewhere-bound"
	// none of them gives out the addresses of the other tests' containers
	confs := map[*testbed.Host]string{hostB: addNetwork(t, "nat3", natConf("nat3", 79), hostB), hostA: addNetwork(t, "nat4", natConf("nat4", 78), hostA)}
	to, back := startAgent(t, hostB), startAgent(t, hostA)
	s := runServer(t, hostA, id, serverFlags{memory: 1})
	t.Cleanup(func() {
		for h, conf := range confs {
			_, _ = try(h, child.DetachCommand(child.Attachment{ID: id, Netns: "/run/netns/" + id, Confs: []string{conf}})...)
		}
	})
	address := newAddress()
	other := attachedServer(t, hostA, testbed.ContainerSpec{ID: bound, IP: address, Args: []string{"workload", "server", "--listen=" + address + ":7000", "--memory-mib", "1"}})
	for _, c := range []struct {
		what, id string
		flags    []string
		code     int
		words    []string
	}{
		{"with a connection", id, []string{"--network", "nat3"}, 3, []string{"tcp-network", "established", "--tcp close"}},
		{"bound to its address", bound, []string{"--network", "nat3", "--tcp", "close"}, 3, []string{"address-bound", address, "0.0.0.0"}},
		{"unknown there", id, []string{"--network", "nowhere", "--tcp", "close"}, 4, []string{"unknown CNI network", "nowhere"}},
		{"misspelt", id, []string{"--network", "mtt=nat3"}, 2, []string{"mtt", "attached to mt"}},
	} {
		text := send(t, hostA, c.id, to, c.flags...).failed(t, c.code, c.words...)
		if !strings.Contains(text, "never stopped") {
			t.Errorf("%s: the container was stopped:\n%s", c.what, text)
		}
	}
	s.assertStayed(t, hostA, hostB)
	other.assertStayed(t, hostA, hostB)

	rep := send(t, hostA, id, to, "--json", "--network", "nat3", "--tcp", "close").moved(t)
	_ = s.client.cmd.Process.Kill() // nobody answers at the old address, and nobody tells it
	s.client = nil
	s.assertMoved(t, hostA, hostB)
	assertOutputWhole(t, id, hostB)
	reached(t, hostB, rep.Addresses, "172.31.79.")
	assertNothingUnderWay(t, hostB, to.dir)

	rep = send(t, hostB, id, back, "--json", "--network", "nat3=nat4").moved(t)
	s.assertMoved(t, hostB, hostA)
	reached(t, hostA, rep.Addresses, "172.31.78.")
	assertOutputWhole(t, id, hostA)
	assertNothingUnderWay(t, hostA, back.dir)
}

// reached checks that the container has a new address of each version of IP, and answers there. v4 begins the one of IPv4.
func reached(t *testing.T, from *testbed.Host, addresses []string, v4 string) {
	t.Helper()
	if len(addresses) != 2 || !strings.HasPrefix(addresses[0], v4) {
		t.Errorf("the container's new addresses are %v", addresses)
	}
	for _, a := range addresses {
		addr := netip.AddrPortFrom(netip.MustParsePrefix(a).Addr(), 7000).String()
		eventually(t, soon, "the container answers at "+addr, func() bool { return answersAt(from, addr) })
	}
}

// TestTwoNetworks moves a container with two interfaces, of which the second one goes to another network. The connection on the
// first one lives through it.
func TestTwoNetworks(t *testing.T) {
	t.Parallel()
	const id = "two-networks"
	confs := []string{"/etc/cni/net.d/10-mt.conflist", addNetwork(t, "nat1", natConf("nat1", 80), hostA, hostB), addNetwork(t, "nat2", natConf("nat2", 81), hostA, hostB)}
	s := attachedServer(t, hostA, testbed.ContainerSpec{ID: id, IP: newAddress(), Confs: confs[:2]})
	t.Cleanup(func() {
		for _, h := range []*testbed.Host{hostA, hostB} {
			_, _ = try(h, child.DetachCommand(child.Attachment{ID: id, Netns: "/run/netns/" + id, Confs: []string{confs[0], confs[2]}})...)
		}
	})
	s.addr += ":7000"
	s.connect(t)
	to, back := startAgent(t, hostB), startAgent(t, hostA)
	send(t, hostA, id, to, "--network", "nat2").failed(t, 2, "mt, nat1", "OLD=NEW", "never stopped")

	rep := send(t, hostA, id, to, "--json", "--network", "nat1=nat2").moved(t)
	s.assertMoved(t, hostA, hostB)
	reached(t, hostB, rep.Addresses, "172.31.81.")
	addresses := func(h *testbed.Host) string {
		return shell(t, h, `ip netns exec "$1" ip -br address | sed "s/@[^ ]*//" | awk '$1 != "lo" { $1 = $1; print }'`, id)
	}
	before := addresses(hostB)

	if rep := send(t, hostB, id, back, "--json").moved(t); len(rep.Addresses) > 0 {
		t.Errorf("new addresses %v on the same networks", rep.Addresses)
	}
	s.assertMoved(t, hostB, hostA)
	if after := addresses(hostA); after != before {
		t.Errorf("the interfaces were\n%s\nand are\n%s", before, after)
	}
	s.finish(t)
	assertOutputWhole(t, id, hostA)
	assertNothingUnderWay(t, hostA, back.dir)
}
