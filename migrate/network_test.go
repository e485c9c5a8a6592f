package migrate

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/network"
)

func onNetworks(names ...string) *sender {
	s := &sender{c: &engine.Container{Network: engine.Network{Mode: engine.NetworkCNI}}}
	for i, name := range names {
		s.c.Network.Attachments = append(s.c.Network.Attachments, engine.Attachment{
			Network: name, ContainerID: "web", Interface: "eth" + string(rune('0'+i)), MAC: "02:00:00:00:00:01", IPs: []string{"10.0.0.2/16", "fd00::2/64"}, MTU: 1400,
			Ports: []engine.Port{{Host: 8080, Container: 80, Protocol: "tcp"}},
		})
	}
	return s
}

func TestPlanNetwork(t *testing.T) {
	for _, test := range []struct {
		what    string
		have    []string
		choice  map[string]string
		want    []string
		renewed string // interfaces
	}{
		{"nothing said", []string{"mt"}, nil, []string{"mt"}, ""},
		{"the only one", []string{"mt"}, map[string]string{"": "other"}, []string{"other"}, "eth0"},
		{"one of two", []string{"mt", "nat"}, map[string]string{"nat": "nat2"}, []string{"mt", "nat2"}, "eth1"},
		{"both", []string{"mt", "nat"}, map[string]string{"nat": "mt", "mt": "nat"}, []string{"nat", "mt"}, "eth0 eth1"},
		{"the same", []string{"mt"}, map[string]string{"": "mt"}, []string{"mt"}, ""},
	} {
		s := onNetworks(test.have...)
		before := s.c.Network.Attachments[0]
		s.opt.Networks = test.choice
		if err := s.planNetwork(); err != nil {
			t.Errorf("%s: %v", test.what, err)
		}
		var got, renewed []string
		for _, a := range s.c.Network.Attachments {
			got = append(got, a.Network)
			if a.Fresh {
				renewed = append(renewed, a.Interface)
			}
			if a.Fresh && (a.IPs != nil || a.MAC != "" || a.MTU != 0 || len(a.Ports) != 1) || !a.Fresh && !slices.Equal(a.IPs, before.IPs) {
				t.Errorf("%s: %+v", test.what, a)
			}
		}
		if !slices.Equal(got, test.want) || strings.Join(renewed, " ") != test.renewed {
			t.Errorf("%s: networks %v, anew %v", test.what, got, renewed)
		}
		if want := 2 * len(renewed); len(s.leaving) != want {
			t.Errorf("%s: leaves %v behind", test.what, s.leaving)
		}
	}
}

func TestPlanNetworkRefuses(t *testing.T) {
	none := onNetworks()
	none.c.Network.Mode = engine.NetworkHost
	for _, test := range []struct {
		s      *sender
		choice map[string]string
		word   string
	}{
		{onNetworks("mt", "nat"), map[string]string{"": "other"}, "OLD=NEW"},
		{onNetworks("mt"), map[string]string{"nat": "other"}, "attached to mt"},
		{none, map[string]string{"": "other"}, "attached to none"},
	} {
		test.s.opt.Networks = test.choice
		err := test.s.planNetwork()
		f := fail.As(err, fail.Internal, "")
		if err == nil || f.Code != fail.Usage || !strings.Contains(f.Why+f.Remedy, test.word) {
			t.Errorf("%v: %+v, want %q", test.choice, f, test.word)
		}
	}
}

func TestNeighboursToTell(t *testing.T) {
	s := onNetworks("mt", "nat")
	s.opt.Networks = map[string]string{"nat": "other"}
	if err := s.planNetwork(); err != nil {
		t.Fatal(err)
	}
	all := []network.Neighbour{{Interface: "eth0", IP: netip.MustParseAddr("10.0.0.1")}, {Interface: "eth1", IP: netip.MustParseAddr("10.0.0.1")}}
	if got := s.neighboursToTell(all); len(got) != 1 || got[0].Interface != "eth0" {
		t.Errorf("neighbours %v", got)
	}
}
