package fake

import (
	"encoding/json"
	"time"

	"migrate/internal/engine"
)

// The blobs of every fake container's image.
var blobContents = [][]byte{[]byte("index of the image"), []byte("manifest of the image"), []byte("config"), []byte("layer")}

// Container describes one with an image, a RW layer and one CNI interface.
func Container(id string) engine.Container {
	var blobs []engine.Blob
	for _, data := range blobContents {
		blobs = append(blobs, engine.Blob{Digest: digestOf(data), MediaType: "application/octet-stream", Size: int64(len(data))})
	}
	return engine.Container{
		Engine: Name, Namespace: "default", ID: id, Labels: map[string]string{"app": id},
		Image:   engine.Image{Name: "fake:1", Target: blobs[0], Blobs: blobs, ChainID: digestOf([]byte("chain"))},
		Runtime: "io.containerd.runc.v2", Snapshotter: "overlayfs", SnapshotKey: id,
		Spec: json.RawMessage(`{"ociVersion":"1.2.0"}`),
		Network: engine.Network{
			Mode: engine.NetworkCNI, NetNS: "/run/netns/" + id,
			Attachments: []engine.Attachment{{
				Network: "mt", ContainerID: id, Interface: "eth0", MAC: "02:00:00:00:00:01", IPs: []string{"10.0.0.2/16"}, MTU: 1500,
			}},
		},
		Created: time.Unix(1_700_000_000, 0).UTC(),
	}
}

// SetUpper names the directory that holds a container's RW layer, for tests that look into it.
func (e *Engine) SetUpper(id, dir string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		e.dirs[c.desc.SnapshotKey] = dir
	}
}

// End ends a container's processes, as a crash of them all would.
func (e *Engine) End(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[id]; c != nil {
		e.kill(c)
	}
}

// upper is the directory of a RW layer, or a path that holds nothing.
func (e *Engine) upper(key string) string {
	if dir := e.dirs[key]; dir != "" {
		return dir
	}
	return "/nonexistent/" + key
}

// AddContainer puts a container with its image on the host, in the given state.
func (e *Engine) AddContainer(c engine.Container, s engine.Status) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.nextPid++
	e.containers[c.ID] = &container{desc: clone(c), task: s != engine.StatusStopped, status: s, pid: e.nextPid}
	e.images[c.Image.Name] = c.Image.Target.Digest
	for _, data := range blobContents {
		e.blobs[digestOf(data)] = data
	}
	e.snapshots[c.SnapshotKey] = true
	if ns := c.Network.NetNS; ns != "" {
		e.namespaces[ns] = true
	}
	for _, key := range addressKeys(c.Network) {
		e.addresses[key] = c.ID
	}
	if s == engine.StatusRunning {
		e.world.runs(e.name, c.ID, true)
	}
}
