package cni

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const portsList = `{"cniVersion":"1.0.0","name":"nat","plugins":[{"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true}}]}`

// portsHost has the networks mt, without port mappings, and nat, and a result cache.
func portsHost(t *testing.T) *Host {
	t.Helper()
	h := confHost(t, "bridge", "tuning", "host-local", "portmap")
	if err := os.WriteFile(filepath.Join(h.confDir, "20-nat.conflist"), []byte(portsList), 0o644); err != nil {
		t.Fatal(err)
	}
	h.cacheDir = t.TempDir()
	if err := os.Mkdir(filepath.Join(h.cacheDir, "results"), 0o700); err != nil {
		t.Fatal(err)
	}
	return h
}

// remember puts an entry into the cache as go-cni writes it.
func remember(t *testing.T, h *Host, id, network, config, mappings string) {
	t.Helper()
	data, err := json.Marshal(cacheEntry{
		ContainerID: id, IfName: "eth0", NetworkName: network, NetNS: "/run/netns/" + id, Config: []byte(config),
		CapabilityArgs: map[string]json.RawMessage{portMappings: json.RawMessage(mappings)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.cacheDir, "results", network+"-"+id+"-eth0"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPortsAreReadFromTheCache(t *testing.T) {
	h := portsHost(t)
	const mappings = `[{"HostPort":8080,"ContainerPort":80,"Protocol":"TCP","HostIP":""},{"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"127.0.0.1"},{"hostPort":0,"containerPort":9}]`
	remember(t, h, "web", "nat", portsList, mappings)
	remember(t, h, "other", "mt", bridgeList, mappings)
	want := []Port{{8080, 80, "tcp", ""}, {53, 5353, "udp", "127.0.0.1"}}
	got, err := h.Recorded("/run/netns/web")
	if err != nil || len(got) != 1 || !slices.Equal(got[0].Ports, want) {
		t.Errorf("Recorded = %+v, %v, want the ports %v", got, err, want)
	}
	// a network without a plugin for them only overheard of them
	got, err = h.Recorded("/run/netns/other")
	if err != nil || len(got) != 1 || len(got[0].Ports) != 0 {
		t.Errorf("Recorded = %+v, %v, want no ports", got, err)
	}
}

func TestCheckPorts(t *testing.T) {
	h := portsHost(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := l.Addr().(*net.TCPAddr).Port
	free := freePort(t)
	remember(t, h, "db", "nat", portsList, `[{"hostPort":15432,"containerPort":5432,"protocol":"tcp"},{"hostPort":15433,"containerPort":5432,"protocol":"tcp","hostIP":"127.0.0.2"}]`)
	for _, test := range []struct {
		what, network string
		port          Port
		want          error
		word          string
	}{
		{"free", "nat", Port{free, 80, "tcp", ""}, nil, ""},
		{"listened on", "nat", Port{used, 80, "tcp", ""}, ErrInUse, "listens"},
		{"the same number of another protocol", "nat", Port{used, 80, "udp", ""}, nil, ""},
		{"mapped", "nat", Port{15432, 80, "tcp", ""}, ErrInUse, "db"},
		{"mapped on all addresses", "nat", Port{15432, 80, "tcp", "127.0.0.1"}, ErrInUse, "db"},
		{"mapped on another address", "nat", Port{15433, 80, "tcp", "127.0.0.1"}, nil, ""},
		{"an address of another host", "nat", Port{free, 80, "tcp", "192.0.2.1"}, nil, "does not have"},
		{"a network that cannot", "mt", Port{free, 80, "tcp", ""}, ErrNoPorts, "portmap"},
	} {
		a := Attachment{Network: test.network, ContainerID: "web", Interface: "eth0", Ports: []Port{test.port}}
		err := h.Check(a)
		switch {
		case test.want == nil && test.word == "":
			if err != nil {
				t.Errorf("%s: %v", test.what, err)
			}
		case err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.word):
			t.Errorf("%s: %v, want %v with %q", test.what, err, test.want, test.word)
		}
	}
	own := Attachment{Network: "nat", ContainerID: "db", Interface: "eth0", Ports: []Port{{15432, 5432, "tcp", ""}}}
	if err := h.Check(own); err != nil {
		t.Errorf("what is left of its own attachment is in the way: %v", err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestValidatePorts(t *testing.T) {
	for _, p := range []Port{{0, 80, "tcp", ""}, {80, 1 << 16, "tcp", ""}, {80, 80, "icmp", ""}, {80, 80, "tcp", "host"}} {
		a := Attachment{Network: "mt", ContainerID: "web", Interface: "eth0", Ports: []Port{p}}
		if a.Validate() == nil {
			t.Errorf("Validate took %+v", p)
		}
	}
}
