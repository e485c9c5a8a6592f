package cni

import (
	"slices"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Owned lists the attachments that the cache has for a container, by the id that the plugins were told: of one whose namespace has
// no path of its own, the recorded path (/proc/PID/ns/net) says nothing once the process is gone.
func (h *Host) Owned(id string) ([]Attachment, error) {
	return h.attached(func(e *cacheEntry) bool { return e.ContainerID == id })
}

// AttachedAs is Attached for a namespace that the cache knows by the container's id only. An entry counts if the interface has what
// the plugins answered then: the cache may still hold what an earlier container of the same id had.
func (h *Host) AttachedAs(id, path string) ([]Attachment, error) {
	links, err := Links(path)
	if err != nil {
		return nil, err
	}
	recorded, err := h.attached(func(e *cacheEntry) bool { return e.ContainerID == id && e.explains(links) })
	if err != nil {
		return nil, err
	}
	return match(path, recorded, links)
}

// explains says whether one of the links is what the entry tells of.
func (e *cacheEntry) explains(links []Link) bool {
	i := slices.IndexFunc(links, func(l Link) bool { return l.Name == e.IfName })
	if i < 0 {
		return false
	}
	ips, err := e.addresses()
	if err != nil {
		return false
	}
	return len(ips) == 0 || slices.ContainsFunc(ips, func(ip string) bool { return slices.Contains(links[i].IPs, ip) })
}

// addresses are those that the plugins gave, with prefix lengths.
func (e *cacheEntry) addresses() ([]string, error) {
	made, err := create.CreateFromBytes(e.Result)
	if err != nil {
		return nil, err
	}
	result, err := types100.NewResultFromResult(made)
	if err != nil {
		return nil, err
	}
	var ips []string
	for _, ip := range result.IPs {
		ips = append(ips, ip.Address.String())
	}
	return ips, nil
}
