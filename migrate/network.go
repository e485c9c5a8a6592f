package migrate

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"migrate/internal/engine"
	"migrate/internal/fail"
	"migrate/internal/network"
)

// planNetwork gives the description those networks of the destination that the user chose, and notes which addresses the
// container leaves behind. They stay here with all that is bound to them.
func (s *sender) planNetwork() error {
	s.leaving, s.renewed = nil, map[string]bool{}
	if len(s.opt.Networks) == 0 {
		return nil
	}
	if err := s.checkNetworks(); err != nil {
		return err
	}
	attachments := slices.Clone(s.c.Network.Attachments)
	for i := range attachments {
		a := &attachments[i]
		to := s.opt.Networks[a.Network]
		if to == "" {
			to = s.opt.Networks[""]
		}
		if to == "" || to == a.Network {
			continue
		}
		for _, ip := range a.IPs {
			if p, err := netip.ParsePrefix(ip); err == nil {
				s.leaving = append(s.leaving, p.Addr())
			}
		}
		s.renewed[a.Interface] = true
		a.Network, a.Fresh, a.IPs, a.MAC, a.MTU = to, true, nil, "", 0
	}
	s.c.Network.Attachments = attachments
	return nil
}

// checkNetworks: a network that was misspelt must not pass for one that was taken care of.
func (s *sender) checkNetworks() error {
	f := &fail.Fault{Code: fail.Usage, Where: "source, phase offer"}
	var have []string
	for _, a := range s.c.Network.Attachments {
		have = append(have, a.Network)
	}
	slices.Sort(have)
	have = slices.Compact(have)
	if s.c.Network.Mode == engine.NetworkManaged {
		f.What, f.Why, f.Remedy = "--network names a network", "the container's networks are its engine's, and only those of CNI can be exchanged", "leave --network out"
		return f
	}
	if s.c.Network.Mode != engine.NetworkCNI || len(have) == 0 {
		f.What, f.Why, f.Remedy = "--network names a network", "the container is attached to none", "leave --network out"
		return f
	}
	list := strings.Join(have, ", ")
	for _, old := range slices.Sorted(maps.Keys(s.opt.Networks)) {
		switch {
		case old == "" && len(have) > 1:
			f.What = "--network " + s.opt.Networks[old] + " does not say which network it is to take the place of"
			f.Why, f.Remedy = "the container is attached to "+list, "say --network OLD=NEW"
			return f
		case old != "" && !slices.Contains(have, old):
			f.What = fmt.Sprintf("--network names %s, to which the container is not attached", old)
			f.Why, f.Remedy = "it is attached to "+list, "name one of its networks before the ="
			return f
		}
	}
	return nil
}

// neighboursToTell leaves out those on links that the destination attaches to another network: nobody there knows them.
func (s *sender) neighboursToTell(all []network.Neighbour) []network.Neighbour {
	return slices.DeleteFunc(all, func(n network.Neighbour) bool { return s.renewed[n.Interface] })
}
