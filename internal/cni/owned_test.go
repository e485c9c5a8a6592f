package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// cached puts an entry as libcni writes it into a cache: a container with one interface and one address of a network.
func cached(t *testing.T, dir, network, id, ip, netns string) {
	t.Helper()
	entry := fmt.Sprintf(`{"kind": "cniCacheV1", "containerId": %q, "config": "e30=", "ifName": "eth0", "networkName": %q, "netns": %q,
		"result": {"cniVersion": "1.0.0", "interfaces": [{"name": "eth0"}], "ips": [{"interface": 0, "address": %q}]}}`, id, network, netns, ip)
	results := filepath.Join(dir, "results")
	if err := os.MkdirAll(results, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(results, network+"-"+id+"-eth0"), []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOwnedGoesByTheID(t *testing.T) {
	dir := t.TempDir()
	cached(t, dir, "mt", "default-web", "10.0.0.5/16", "/proc/77/ns/net")
	cached(t, dir, "mt", "default-db", "10.0.0.6/16", "/proc/77/ns/net")
	got, err := New(Config{CacheDir: dir}).Owned("default-web")
	if err != nil || len(got) != 1 || got[0].ContainerID != "default-web" || got[0].Network != "mt" {
		t.Errorf("Owned = %+v, %v, want web's eth0", got, err)
	}
	if got, err := New(Config{CacheDir: dir}).Owned("web"); err != nil || len(got) != 0 {
		t.Errorf("Owned of another id = %+v, %v", got, err)
	}
}

// What an earlier container of the same id had on another network is no answer, nor is an interface that is gone.
func TestExplains(t *testing.T) {
	links := []Link{{Name: "eth0", Kind: "veth", Up: true, IPs: []string{"10.0.0.5/16", "fd00::5/64"}}}
	for name, test := range map[string]struct {
		ifName, result string
		want           bool
	}{
		"its address":       {"eth0", `{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/16"}]}`, true},
		"its IPv6 address":  {"eth0", `{"cniVersion": "0.4.0", "ips": [{"version": "6", "address": "fd00::5/64"}]}`, true},
		"no address at all": {"eth0", `{"cniVersion": "1.0.0"}`, true},
		"another's address": {"eth0", `{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.6/16"}]}`, false},
		"another interface": {"eth1", `{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/16"}]}`, false},
		"no result":         {"eth0", ``, false},
	} {
		e := cacheEntry{IfName: test.ifName, Result: []byte(test.result)}
		if got := e.explains(links); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
