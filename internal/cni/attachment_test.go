package cni

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestRecordedReadsTheCache(t *testing.T) {
	dir := t.TempDir()
	results := filepath.Join(dir, "results")
	real := filepath.Join(dir, "run")
	link := filepath.Join(dir, "var-run")
	for _, err := range []error{os.Mkdir(results, 0o700), os.Mkdir(real, 0o700), os.Symlink("run", link),
		os.WriteFile(filepath.Join(real, "web"), nil, 0o644), os.WriteFile(filepath.Join(real, "db"), nil, 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, e cacheEntry) {
		data, _ := json.Marshal(e)
		if err := os.WriteFile(filepath.Join(results, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("mt-web-eth0", cacheEntry{ContainerID: "web", IfName: "eth0", NetworkName: "mt", NetNS: filepath.Join(link, "web")})
	write("lo-web-lo", cacheEntry{ContainerID: "web", IfName: "lo", NetworkName: "lo", NetNS: filepath.Join(real, "web")})
	write("mt-db-eth0", cacheEntry{ContainerID: "db", IfName: "eth0", NetworkName: "mt", NetNS: filepath.Join(real, "db")})
	if err := os.WriteFile(filepath.Join(results, "broken"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := New(Config{CacheDir: dir}).Recorded(filepath.Join(real, "web"))
	if err != nil || len(got) != 1 || got[0].ContainerID != "web" || got[0].Interface != "eth0" {
		t.Errorf("Recorded = %+v, %v, want web's eth0", got, err)
	}
}

func TestMatch(t *testing.T) {
	eth0 := Link{Name: "eth0", Kind: "veth", MAC: "02:00:00:00:00:01", Up: true, IPs: []string{"10.0.0.2/16"}}
	tunl0 := Link{Name: "tunl0", Kind: "ipip"}
	known := []Attachment{{Network: "mt", ContainerID: "web", Interface: "eth0"}}
	got, err := match("ns", known, []Link{tunl0, eth0})
	if err != nil || len(got) != 1 || got[0].MAC != eth0.MAC {
		t.Errorf("match = %+v, %v", got, err)
	}
	if _, err := match("ns", nil, []Link{eth0}); !errors.Is(err, ErrForeign) {
		t.Errorf("match of an unknown interface: %v, want ErrForeign", err)
	}
	if _, err := match("ns", known, []Link{tunl0}); err == nil {
		t.Error("match accepted that a recorded interface is gone")
	}
}

func TestValidate(t *testing.T) {
	good := Attachment{Network: "mt", ContainerID: "web", Interface: "eth0", MAC: "02:00:00:00:00:01", IPs: []string{"10.0.0.2/16", "fd00::2/64"}}
	if err := good.Validate(); err != nil {
		t.Errorf("Validate: %v", err)
	}
	for name, spoil := range map[string]func(*Attachment){
		"network":   func(a *Attachment) { a.Network = "../mt" },
		"container": func(a *Attachment) { a.ContainerID = "a/b" },
		"interface": func(a *Attachment) { a.Interface = "eth0/../x" },
		"MAC":       func(a *Attachment) { a.MAC = "no" },
		"address":   func(a *Attachment) { a.IPs = []string{"10.0.0.2;IP=1"} },
		"MTU":       func(a *Attachment) { a.MTU = -1 },
		"choice":    func(a *Attachment) { a.Fresh = true },
	} {
		a := good
		spoil(&a)
		if a.Validate() == nil {
			t.Errorf("Validate took a bad %s", name)
		}
	}
}

func TestValidSysctl(t *testing.T) {
	for key, want := range map[string]bool{
		"net/ipv4/ip_forward": true, "net/ipv4/conf/eth0.100/rp_filter": true, "net/ipv6/conf/all/disable_ipv6": true,
		"kernel/core_pattern": false, "net/../kernel/core_pattern": false, "net.ipv4.ip_forward": false,
		"net/ipv4/tcp_fastopen_key": false, "net/ipv6/conf/eth0/stable_secret": false, "": false,
	} {
		if got := ValidSysctl(key); got != want {
			t.Errorf("ValidSysctl(%q) = %v, want %v", key, got, want)
		}
	}
}
