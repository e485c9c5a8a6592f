package engine

import "testing"

func TestRename(t *testing.T) {
	c := Container{ID: "web", SnapshotKey: "web", Network: Network{
		NetNS: "/run/netns/cni-web", Attachments: []Attachment{{ContainerID: "default-web"}, {ContainerID: "webshop"}},
	}}
	shared := c.Network.Attachments
	c.Rename("web2")
	if c.ID != "web2" || c.SnapshotKey != "web2" || c.Network.NetNS != "/run/netns/cni-web2" {
		t.Errorf("renamed container is %+v", c)
	}
	if got := c.Network.Attachments; got[0].ContainerID != "default-web2" || got[1].ContainerID != "webshop" {
		t.Errorf("renamed attachments are %+v", got)
	}
	c = Container{ID: "web", Namespace: "web", Network: Network{Attachments: []Attachment{{ContainerID: "web-web"}}}}
	if c.Rename("db"); c.Network.Attachments[0].ContainerID != "web-db" {
		t.Errorf("renamed attachment in a namespace called like the container is %+v", c.Network.Attachments[0])
	}
	if shared[0].ContainerID != "default-web" {
		t.Error("Rename changed the attachments of the copy it was made from")
	}
}
