package cni

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const bridgeList = `{"cniVersion":"1.0.0","name":"mt","plugins":[
  {"type":"bridge","args":{"cni":{"note":"kept"}},"ipam":{"type":"host-local","dataDir":"/data","subnet":"10.0.0.0/16"}},
  {"type":"tuning"}]}`

func confHost(t *testing.T, plugins ...string) *Host {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10-mt.conflist"), []byte(bridgeList), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range plugins {
		if err := os.WriteFile(filepath.Join(dir, p), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return New(Config{ConfDir: dir, BinDirs: []string{dir}})
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	a := Attachment{Network: "mt", ContainerID: "web", Interface: "eth0"}
	if err := confHost(t, "bridge", "tuning").Check(a); err == nil || !strings.Contains(err.Error(), `"host-local"`) {
		t.Errorf("Check without host-local: %v", err)
	}
	if err := confHost(t, "bridge", "tuning", "host-local").Check(a); err != nil {
		t.Errorf("Check: %v", err)
	}
	a.Network = "other"
	if err := confHost(t).Check(a); !errors.Is(err, ErrUnknownNetwork) {
		t.Errorf("Check of an unknown network: %v, want ErrUnknownNetwork", err)
	}
}

func TestWithAddresses(t *testing.T) {
	n, err := confHost(t).network("mt")
	if err != nil {
		t.Fatal(err)
	}
	list, err := n.withAddresses([]string{"10.0.0.2", "fd00::2"}, "02:00:00:00:00:01")
	if err != nil {
		t.Fatal(err)
	}
	for _, plugin := range list.Plugins {
		var conf struct {
			Args struct {
				CNI struct {
					IPs  []string
					MAC  string
					Note string
				} `json:"cni"`
			}
		}
		if err := json.Unmarshal(plugin.Bytes, &conf); err != nil {
			t.Fatal(err)
		}
		got := conf.Args.CNI
		if !slices.Equal(got.IPs, []string{"10.0.0.2", "fd00::2"}) || got.MAC != "02:00:00:00:00:01" {
			t.Errorf("%s is told %+v", plugin.Network.Type, got)
		}
		if plugin.Network.Type == "bridge" && got.Note != "kept" {
			t.Error("the configuration's own arguments are lost")
		}
	}
	if got := n.dataDirs(); !slices.Equal(got, []string{"/data/mt"}) {
		t.Errorf("dataDirs = %v", got)
	}
}

func TestHolder(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "10.0.0.2"), []byte("web\r\neth0"), 0o600); err != nil {
		t.Fatal(err)
	}
	for ip, want := range map[string]string{"10.0.0.2": "web", "10.0.0.3": ""} {
		if got, err := holder(dir, ip); err != nil || got != want {
			t.Errorf("holder of %s = %q, %v, want %q", ip, got, err, want)
		}
	}
}

func TestSinglePluginIsAListOfOne(t *testing.T) {
	dir := t.TempDir()
	conf := `{"cniVersion":"0.4.0","name":"old","type":"bridge","ipam":{"type":"host-local","dataDir":"/d"}}`
	if err := os.WriteFile(filepath.Join(dir, "99-old.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	n, err := New(Config{ConfDir: dir}).network("old")
	if err != nil || len(n.list.Plugins) != 1 || n.list.Plugins[0].Network.Type != "bridge" || n.list.CNIVersion != "0.4.0" {
		t.Errorf("network = %+v, %v", n, err)
	}
}
