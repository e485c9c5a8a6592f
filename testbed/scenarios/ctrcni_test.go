package scenarios

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"migrate/testbed"
)

// ctrConf makes a network on the segment of all hosts, with addresses that no other test's containers have: ctr lets the network
// choose.
func ctrConf(h *testbed.Host) string {
	v4 := strings.TrimSuffix(h.Addr().String(), "0.11")
	v4 = strings.TrimSuffix(v4, "0.12")
	v6, _, _ := strings.Cut(h.Addr6().String(), "::")
	var four, six []string
	for _, first := range map[bool][]int{true: {100, 150}, false: {150, 100}}[h == hostA] {
		four = append(four, fmt.Sprintf(`{"subnet": "%[1]s0.0/16", "rangeStart": "%[1]s0.%[2]d", "rangeEnd": "%[1]s0.%[3]d"}`, v4, first, first+49))
		six = append(six, fmt.Sprintf(`{"subnet": "%[1]s::/64", "rangeStart": "%[1]s::c:%[2]d", "rangeEnd": "%[1]s::c:%[3]d"}`, v6, first, first+49))
	}
	return fmt.Sprintf(`{
		"cniVersion": "1.0.0", "name": "ctr",
		"plugins": [{"type": "bridge", "bridge": "cni0", "ipMasq": true, "ipam": {"type": "host-local", "ranges": [[%s], [%s]]}}]
	}`, strings.Join(four, ", "), strings.Join(six, ", "))
}

// ctrNetwork has `ctr run --cni` find the network first, and the plugins where it looks for them.
func ctrNetwork(t *testing.T, hosts ...*testbed.Host) {
	t.Helper()
	for _, h := range hosts {
		writeAt(t, h, "/etc/cni/net.d/05-ctr.conflist", ctrConf(h))
		run(t, h, "mkdir", "-p", "/opt/cni")
		run(t, h, "ln", "-sfn", "/usr/lib/cni", "/opt/cni/bin")
	}
}

// runWithCNI starts a container as `ctr run --cni` does, and ends it in the same way.
func runWithCNI(t *testing.T, h *testbed.Host, id string, args ...string) *subject {
	t.Helper()
	s := runContainer(t, h, testbed.ContainerSpec{ID: id, Image: "testbed/tools:latest", Flags: []string{"--cni"}, Args: args})
	t.Cleanup(func() {
		for _, h := range bed.Hosts() {
			_, _ = try(h, "ctr", "tasks", "kill", "--signal", "KILL", id) // gives back what CNI gave
		}
	})
	s.addr, _, _ = strings.Cut(strings.Fields(inNetwork(t, h, id, "ip -4 -br address show eth0"))[2], "/")
	return s
}

// inNetwork runs a script of the host in the container's network namespace, which has no name.
func inNetwork(t *testing.T, h *testbed.Host, id, script string) string {
	t.Helper()
	return run(t, h, "nsenter", "--net", "-t", fmt.Sprint(initPid(t, h, id)), "sh", "-euc", script)
}

// attached is what a container has of its network, and what the host and CNI know of that.
func attached(t *testing.T, h *testbed.Host, id string) string {
	t.Helper()
	return inNetwork(t, h, id, `{ ip -br link; ip -br address; } | sed "s/@[^ ]*//" | tr -s " "; ip route; ip -6 route | grep -v "^fe80"; nft list ruleset`) +
		"\n" + shell(t, h, `cd /var/lib/cni/networks/ctr; grep -l "^default-$1[[:space:]]*$" * | sort; ls "/var/lib/cni/results/ctr-default-$1-eth0"
			iptables-save -t nat | grep -c "default-$1[^-a-z]" || true; ls -A /var/lib/migrate/netns 2>/dev/null | grep "$1" || true`, id)
}

// veths lists the interfaces of a host that lead into containers of the network.
func veths(t *testing.T, h *testbed.Host, id string) []string {
	t.Helper()
	return lines(shell(t, h, `sed 's/[{},]/\n/g' "/var/lib/cni/results/ctr-default-$1-eth0" | sed -n 's/^"name":"\(veth[^"]*\)"$/\1/p'`, id))
}

// TestCtrCNI moves a container whose network namespace ctr had CNI attach, there and back, with a client that stays connected. It is such a
// container at either end, and what it had at the host that it left is given back.
func TestCtrCNI(t *testing.T) {
	t.Parallel()
	const id = "ctr-cni"
	ctrNetwork(t, hostA, hostB)
	s := runWithCNI(t, hostA, id, "workload", "server", "--listen=:7000", "--memory-mib", "4", "--dirty-pages-per-sec", "200")
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, hostA, id)) > 1 })
	s.addr += ":7000"
	s.connect(t)
	agents := map[*testbed.Host]*agent{hostA: startAgent(t, hostA), hostB: startAgent(t, hostB)}
	before := attached(t, hostA, id)
	for _, word := range []string{strings.TrimSuffix(s.addr, ":7000"), "ctr-default-" + id + "-eth0", "default-" + id} {
		if !strings.Contains(before, word) {
			t.Fatalf("ctr has not attached the container as expected, %q is missing:\n%s", word, before)
		}
	}
	t.Run("roll-back", func(t *testing.T) {
		hit := fault(t, hostB, id, atRestore, `exit 1`)
		send(t, hostA, id, agents[hostB]).failed(t, 8, "runs on at the source")
		if !hit() {
			t.Error("CRIU was not made to fail")
		}
		removeFault(t, id)
		s.assertStayed(t, hostA, hostB)
		if after := attached(t, hostA, id); after != before {
			t.Errorf("the network was\n%s\nand is\n%s", before, after)
		}
	})
	spec := func(h *testbed.Host) string { return run(t, h, "ctr", "containers", "info", "--spec", id) }
	said := spec(hostA)
	from := hostA
	for _, to := range []*testbed.Host{hostB, hostA} {
		left := veths(t, from, id)
		if len(left) != 1 {
			t.Fatalf("%s: the container has the interfaces %v", from.Name, left)
		}
		rep := send(t, from, id, agents[to], "--json").moved(t)
		checkReport(t, rep)
		s.assertMoved(t, from, to)
		if rep.Connections == 0 {
			t.Error("no connection moved")
		}
		if !within(soon, func() bool { return attached(t, to, id) == before }) {
			t.Errorf("%s: the network was\n%s\nand is\n%s", to.Name, before, attached(t, to, id))
		}
		if out, err := try(from, "ip", "link", "show", left[0]); err == nil {
			t.Errorf("%s is left with the interface:\n%s", from.Name, out)
		}
		if now := spec(to); now != said {
			t.Errorf("%s: the specification is\n%s\nand was\n%s", to.Name, now, said)
		}
		run(t, to, "ctr", "tasks", "exec", "--exec-id", "look", id, "true")
		assertOutputWhole(t, id, to)
		assertNothingUnderWay(t, to, agents[to].dir)
		from = to
	}
	s.finish(t)
	left := veths(t, from, id)
	run(t, from, "ctr", "tasks", "kill", "--signal", "KILL", id) // which has CNI take the addresses back
	purgeAt(t, from, id)
	assertClean(t, from, id)
	if !within(soon, func() bool { _, err := try(from, "ip", "link", "show", left[0]); return err != nil }) {
		t.Errorf("%s: the interface %s outlives the container", from.Name, left[0])
	}
}

// TestCtrCNIAgentDies has the destination's agent die right before and right after the hand-over. The next one takes the network away, or
// only its name.
func TestCtrCNIAgentDies(t *testing.T) {
	t.Parallel()
	ctrNetwork(t, hostA, hostB)
	for name, at := range map[string]*testbed.Host{"before": hostA, "after": hostB} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			id := "ctr-cni-" + name
			s := runWithCNI(t, hostA, id, "workload", "server", "--listen=:7000", "--memory-mib", "1")
			eventually(t, soon, "the container prints", func() bool { return len(ticks(t, hostA, id)) > 1 })
			to := startAgent(t, hostB)
			before := attached(t, hostA, id)
			m := heldBeforeGo(t, onContainerd(), id, to)
			if at == hostB {
				m.signal(t, syscall.SIGCONT)
				eventually(t, later, "the container runs at the destination", func() bool { return status(t, hostB, id) == "RUNNING" })
			}
			to.signal(t, syscall.SIGKILL)
			to.wait(t, soon)
			to.start(t)
			if at == hostA {
				m.signal(t, syscall.SIGCONT)
				// 6 or 8: it saw that before it would have said GO, or said it to nobody, and asked
				if code := m.wait(t, later); code != 6 && code != 8 || !strings.Contains(m.stderr.String(), "runs on at the source") {
					t.Errorf("exit status %d\n%s", code, m.stderr.String())
				}
				s.assertStayed(t, hostA, hostB)
			} else {
				if code := m.wait(t, later); code != 0 {
					t.Errorf("exit status %d\n%s", code, m.stderr.String())
				}
				s.assertMoved(t, hostA, hostB)
			}
			if !within(soon, func() bool { return attached(t, at, id) == before }) {
				t.Errorf("%s: the network was\n%s\nand is\n%s", at.Name, before, attached(t, at, id))
			}
			assertOutputWhole(t, id, at)
			assertNothingUnderWay(t, hostB, to.dir)
		})
	}
}

// TestCtrCNIForeign refuses a container whose runtime-made namespace holds what CNI does not know of.
func TestCtrCNIForeign(t *testing.T) {
	t.Parallel()
	const id = "ctr-foreign"
	s := runContainer(t, hostA, testbed.ContainerSpec{ID: id, Image: "testbed/tools:latest", Args: []string{"workload", "server", "--listen=", "--memory-mib", "1"}})
	eventually(t, soon, "the container prints", func() bool { return len(ticks(t, hostA, id)) > 1 })
	inNetwork(t, hostA, id, "ip link add eth0 type bridge; ip link set eth0 up")
	send(t, hostA, id, startAgent(t, hostB)).failed(t, 3, "default-"+id, "eth0", "ctr run --cni", "never stopped")
	s.assertStayed(t, hostA, hostB)
}
