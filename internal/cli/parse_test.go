package cli

import (
	"testing"

	"migrate/internal/fail"
)

func TestParseBandwidth(t *testing.T) {
	for text, want := range map[string]int64{
		"1000": 1000, "100MiB": 100 << 20, "100mib/s": 100 << 20, "100MB": 100e6, "1.5GB": 15e8, "64KiB": 64 << 10, "12 kB": 12000,
		"800mbit": 100e6, "800Mbit/s": 100e6, "1gbit": 125e6, "1Gibit": 1 << 27, "2B": 2, "9kbps": 0, "9kbitps": 1125,
	} {
		got, err := parseBandwidth(text)
		if want == 0 {
			if fail.Exit(err) != 2 {
				t.Errorf("%s: got %d, %v, want a usage error", text, got, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "MiB", "0", "0.1", "-5MB", "5Mb", "5b", "5Mo", "1e9", "99999999999GiB", "1..2MB", "5 MiB/h", "100M"} {
		if got, err := parseBandwidth(text); fail.Exit(err) != 2 {
			t.Errorf("%q: got %d, %v, want a usage error", text, got, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "20GiB": 20 << 30, "1.5TB": 15e11, "500 mib": 500 << 20} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "0", "-1", "5mbit", "9999999TiB"} {
		if got, err := parseSize(text); fail.Exit(err) != 2 {
			t.Errorf("%q: got %d, %v, want a usage error", text, got, err)
		}
	}
}

func TestParseDest(t *testing.T) {
	for text, want := range map[string]destination{
		"b":                       {addr: "b:7600"},
		"b.example.net:99":        {addr: "b.example.net:99"},
		"10.0.0.2":                {addr: "10.0.0.2:7600"},
		"10.0.0.2:7601":           {addr: "10.0.0.2:7601"},
		"fd00::2":                 {addr: "[fd00::2]:7600"},
		"[fd00::2]":               {addr: "[fd00::2]:7600"},
		"[fd00::2]:99":            {addr: "[fd00::2]:99"},
		"ssh://b":                 {host: "b"},
		"ssh://root@b.example":    {user: "root", host: "b.example"},
		"ssh://root@b:2222":       {user: "root", host: "b", port: 2222},
		"ssh://root@[fd00::2]:22": {user: "root", host: "fd00::2", port: 22},
		"ssh://b/":                {host: "b"},
	} {
		want.text = text
		got, err := parseDest(text)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", text, got, err, want)
		}
		if got.ssh() != (want.host != "") {
			t.Errorf("%s: ssh() is %v", text, got.ssh())
		}
	}
	for _, text := range []string{
		"", ":7600", "b:", "b:0", "b:70000", "b:port", "root@b", "a b", "b/c:1", "http://b", "ssh://", "ssh://b/path", "ssh://b?x",
		"ssh://me:secret@b", "ssh://b:0", "fd00::2:99999:1:2:3:4:5:6",
	} {
		if got, err := parseDest(text); fail.Exit(err) != 2 {
			t.Errorf("%q: got %+v, %v, want a usage error", text, got, err)
		}
	}
}

func TestEngineSpec(t *testing.T) {
	want := engineSpec{Kind: "containerd", Address: "/run/x.sock", Namespace: "ns", RunDir: "/r", LogDir: "/l"}
	if got, err := parseEngineSpec(want.String()); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := parseEngineSpec("{"); err == nil {
		t.Error("half a specification was understood")
	}
	if _, err := (engineSpec{Kind: "ship"}).open(t.Context(), nil); err == nil {
		t.Error("an unknown engine was opened")
	}
}

// TestEngineOfAnOffer has a destination agent choose the engine that a container comes from.
func TestEngineOfAnOffer(t *testing.T) {
	for _, c := range []struct {
		own, theirs, namespace string
		want                   string // kind and namespace; "" when it is refused
	}{
		{auto, "docker", "moby", "docker moby"}, {auto, "containerd", "web", "containerd web"}, {auto, "", "web", "containerd web"},
		{"docker", "docker", "elsewhere", "docker moby"}, {"docker", "containerd", "web", ""}, {"containerd", "docker", "moby", ""},
	} {
		s, err := engineSpec{Kind: c.own}.of(c.theirs, c.namespace)
		got := s.Kind + " " + s.Namespace
		if err != nil {
			got = ""
		}
		if got != c.want {
			t.Errorf("--engine %s, container of %q: %q, %v, want %q", c.own, c.theirs, got, err, c.want)
		}
	}
}
