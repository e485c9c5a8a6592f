package engine

import (
	"path/filepath"
	"slices"
	"strings"
)

// Rename gives a container another id for its new host, and with it what is named after it: snapshot, attachments and
// network namespace. A network namespace is named after its container when the last part of its path holds the id.
func (c *Container) Rename(id string) {
	old := c.ID
	if old == id {
		return
	}
	c.ID = id
	c.SnapshotKey = renamed(c.SnapshotKey, old, id)
	if c.Network.NetNS != "" {
		dir, name := filepath.Split(c.Network.NetNS)
		c.Network.NetNS = dir + renamed(name, old, id)
	}
	c.Network.Attachments = slices.Clone(c.Network.Attachments)
	for i := range c.Network.Attachments {
		a := &c.Network.Attachments[i]
		if a.ContainerID == c.Namespace+"-"+old { // also when the namespace is called like the container
			a.ContainerID = c.Namespace + "-" + id
		} else {
			a.ContainerID = renamed(a.ContainerID, old, id)
		}
	}
}

// renamed replaces the id where it stands as a word of its own: at the ends of s, or between separators.
func renamed(s, old, id string) string {
	at := strings.Index(s, old)
	if at < 0 || !boundary(s, at-1) || !boundary(s, at+len(old)) {
		return s
	}
	return s[:at] + id + s[at+len(old):]
}

func boundary(s string, i int) bool {
	return i < 0 || i >= len(s) || strings.ContainsRune("-_.:", rune(s[i]))
}
