package restore

import (
	"slices"

	"migrate/internal/engine"
	"migrate/internal/network"
)

// newAddresses are those that this host's networks gave the container where it did not bring its own.
func (r *receiver) newAddresses() (all []string) {
	fresh := func(a engine.Attachment) bool { return a.Fresh }
	if !slices.ContainsFunc(r.c.Network.Attachments, fresh) {
		return nil
	}
	interfaces, err := network.Interfaces(r.c.Network.NetNS)
	if err != nil {
		r.log.Warn("find out the container's addresses", "err", err)
		return nil
	}
	for _, i := range interfaces {
		if !slices.ContainsFunc(r.c.Network.Attachments, func(a engine.Attachment) bool { return a.Fresh && a.Interface == i.Name }) {
			continue
		}
		for _, ip := range i.IPs {
			if !ip.Addr().IsLinkLocalUnicast() {
				all = append(all, ip.String())
			}
		}
	}
	return all
}
