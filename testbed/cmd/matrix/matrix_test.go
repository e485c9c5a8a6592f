package main

import (
	"net/netip"
	"testing"

	"migrate/testbed"
)

func TestGeneration(t *testing.T) {
	for _, c := range []struct {
		engine, docker string
		want           testbed.Docker
		bad            bool
	}{
		{"containerd", "", testbed.DockerNone, false},
		{"containerd", "26.1", testbed.DockerNone, true},
		{"docker", "", testbed.Docker26, false},
		{"docker", "28.5", testbed.Docker28, false},
		{"docker", "28.5+shim", testbed.Docker28Shim, false},
		{"podman", "", testbed.DockerNone, true},
	} {
		if got, err := generation(c.engine, c.docker); got != c.want || (err != nil) != c.bad {
			t.Errorf("--engine %s --docker %q gives %q, %v", c.engine, c.docker, got, err)
		}
	}
}

// TestAddresses checks that containers get different addresses, within what the hosts' network sets aside for them.
func TestAddresses(t *testing.T) {
	next := addresses(netip.MustParseAddr("10.81.0.11"))
	seen := map[string]bool{}
	ranges := netip.MustParsePrefix("10.81.0.0/16")
	for i := range 16 * 240 {
		a := next()
		addr, err := netip.ParseAddr(a)
		if err != nil || seen[a] {
			t.Fatalf("address %d is %q, given before: %v, %v", i, a, seen[a], err)
		}
		seen[a] = true
		if b := addr.As4(); !ranges.Contains(addr) || b[2] < 1 || b[2] > 16 || b[3] < 10 || b[3] > 249 {
			t.Fatalf("address %d is %s", i, a)
		}
	}
	if again := next(); !seen[again] {
		t.Errorf("after the last one comes %s", again)
	}
}
