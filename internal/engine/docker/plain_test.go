//go:build !inhost

package docker

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/engine"
)

func plainSpec() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}},
		Root:    &specs.Root{Path: "/var/lib/docker/overlay2/x/merged"},
		Linux:   &specs.Linux{MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}},
	}
}

// TestSafeHostConfig holds what a peer may ask of this host's daemon against the specification that the policy has let in.
func TestSafeHostConfig(t *testing.T) {
	for name, c := range map[string]struct {
		change func(h *container.HostConfig)
		ok     bool
	}{
		"plain":              {func(*container.HostConfig) {}, true},
		"a known capability": {func(h *container.HostConfig) { h.CapAdd = []string{"chown"} }, true},
		"another capability": {func(h *container.HostConfig) { h.CapAdd = []string{"SYS_ADMIN"} }, false},
		"all capabilities":   {func(h *container.HostConfig) { h.CapAdd = []string{"ALL"} }, false},
		"seccomp off":        {func(h *container.HostConfig) { h.SecurityOpt = []string{"seccomp=unconfined"} }, false},
		"no new privileges":  {func(h *container.HostConfig) { h.SecurityOpt = []string{"no-new-privileges"} }, true},
		"paths unmasked":     {func(h *container.HostConfig) { h.MaskedPaths = []string{} }, false},
		"paths writable":     {func(h *container.HostConfig) { h.ReadonlyPaths = []string{"/proc/bus"} }, false},
		"remote log":         {func(h *container.HostConfig) { h.LogConfig.Type = "gelf" }, false},
		"host's IPC":         {func(h *container.HostConfig) { h.IpcMode = "host" }, false},
		"never killed":       {func(h *container.HostConfig) { h.OomScoreAdj = -999 }, false},
		"image mount":        {func(h *container.HostConfig) { h.Mounts = []mount.Mount{{Type: "image", Target: "/x"}} }, false},
	} {
		h := &container.HostConfig{}
		c.change(h)
		if _, err := safeHostConfig(h, plainSpec()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsNotNamedStaysBehind(t *testing.T) {
	yes := true
	h := &container.HostConfig{
		Privileged: true, PidMode: "host", UTSMode: "host", UsernsMode: "host", Binds: []string{"/:/host"}, VolumesFrom: []string{"other"},
		Runtime: "evil", ContainerIDFile: "/etc/x", Annotations: map[string]string{criuAnnotation: "/tmp/x"}, Init: &yes,
		LogConfig: container.LogConfig{Config: map[string]string{"max-size": "1m", "syslog-address": "x"}},
		Mounts:    []mount.Mount{{Type: mount.TypeBind, Source: "/etc", Target: "/data"}, {Type: mount.TypeTmpfs, Target: "/scratch"}},
	}
	h.Devices = []container.DeviceMapping{{PathOnHost: "/dev/sda"}}
	h.CgroupParent = "/"
	s := plainSpec()
	s.Mounts = []specs.Mount{
		{Type: "bind", Source: "/srv/data", Destination: "/data", Options: []string{"ro"}},
		{Type: "bind", Source: "/var/lib/docker/volumes/v/_data", Destination: "/volume"},
	}
	got, err := safeHostConfig(h, s)
	if err != nil {
		t.Fatal(err)
	}
	want := &container.HostConfig{
		Init: &yes, Annotations: map[string]string{}, LogConfig: container.LogConfig{Config: map[string]string{"max-size": "1m"}},
		Mounts: []mount.Mount{
			{Type: mount.TypeBind, Source: "/srv/data", Target: "/data", ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRPrivate}},
			{Type: mount.TypeTmpfs, Target: "/scratch"},
			{Type: mount.TypeVolume, Source: "v", Target: "/volume", VolumeOptions: &mount.VolumeOptions{NoCopy: true}},
		},
	}
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if string(a) != string(b) {
		t.Errorf("taken over is\n%s\nwant\n%s", a, b)
	}
}

func TestPortableLeavesOutWhatTheDaemonMakes(t *testing.T) {
	const containers = "/var/lib/docker/containers"
	s := plainSpec()
	//lint:ignore SA1019 the daemon uses the deprecated kind
	s.Hooks = &specs.Hooks{Prestart: []specs.Hook{{Path: "/proc/1/exe", Args: []string{setKey}}, {Path: "/bin/other", Args: []string{"other"}}}}
	s.Mounts = []specs.Mount{
		{Type: "bind", Source: containers + "/abc/hosts", Destination: "/etc/hosts"},
		{Type: "bind", Source: "/usr/bin/docker-init", Destination: initPath},
		{Type: "bind", Source: "/srv", Destination: "/srv"},
	}
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/7/ns/net"}}
	s.Linux.CgroupsPath = "/docker/abc"
	s.Annotations = map[string]string{criuAnnotation: "/run/x"}
	raw, err := portable(s, containers)
	if err != nil {
		t.Fatal(err)
	}
	var got specs.Spec
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	//lint:ignore SA1019 the daemon uses the deprecated kind
	hooks := got.Hooks.Prestart
	if got.Root.Path != "rootfs" || len(got.Mounts) != 1 || got.Mounts[0].Source != "/srv" || got.Linux.CgroupsPath != "" || got.Annotations != nil ||
		got.Linux.Namespaces[0].Path != "" || len(hooks) != 1 || hooks[0].Path != "/bin/other" {
		t.Errorf("portable: %s", raw)
	}
	if !hasSetKey(s) || hasSetKey(&got) {
		t.Error("the daemon's hook is not told from others")
	}
}

func TestImagesOfPeers(t *testing.T) {
	config := engine.Blob{Digest: "sha256:" + strings.Repeat("a", 64), MediaType: configType, Size: 10}
	layer := engine.Blob{Digest: "sha256:" + strings.Repeat("b", 64), MediaType: layerType, Size: 10}
	manifest := engine.Blob{Digest: "sha256:" + strings.Repeat("c", 64), MediaType: ocispec.MediaTypeImageManifest, Size: 10}
	index := engine.Blob{Digest: "sha256:" + strings.Repeat("d", 64), MediaType: ocispec.MediaTypeImageIndex, Size: 10}
	packed := engine.Blob{Digest: "sha256:" + strings.Repeat("e", 64), MediaType: ocispec.MediaTypeImageLayerGzip, Size: 10, Diff: layer.Digest}
	for name, c := range map[string]struct {
		img engine.Image
		ok  bool
	}{
		"fine":          {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config, layer}}, true},
		"no name":       {engine.Image{Target: config, Blobs: []engine.Blob{config}}, false},
		"no blobs":      {engine.Image{Name: "x", Target: config}, false},
		"layer first":   {engine.Image{Name: "x", Target: layer, Blobs: []engine.Blob{layer, config}}, false},
		"other target":  {engine.Image{Name: "x", Target: layer, Blobs: []engine.Blob{config}}, false},
		"not a digest":  {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config, {Digest: "../x", MediaType: layerType}}}, false},
		"huge config":   {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{{Digest: config.Digest, MediaType: configType, Size: 1 << 40}}}, false},
		"unknown media": {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config, {Digest: layer.Digest, MediaType: "y"}}}, false},

		"of a registry":      {engine.Image{Name: "x", Target: index, Blobs: []engine.Blob{index, manifest, config, packed}}, true},
		"no configuration":   {engine.Image{Name: "x", Target: manifest, Blobs: []engine.Blob{manifest}}, false},
		"two configurations": {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config, config}}, false},
		"manifest last":      {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config, packed, manifest}}, false},
		"layer in between":   {engine.Image{Name: "x", Target: index, Blobs: []engine.Blob{index, packed, config}}, false},
		"unpacks to a path":  {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config, {Digest: layer.Digest, MediaType: layerType, Diff: "../x"}}}, false},
		"chain is no digest": {engine.Image{Name: "x", Target: config, Blobs: []engine.Blob{config}, ChainID: "x"}, false},
	} {
		if err := validImage(c.img); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMissingLayers has a daemon with a store of its own know layers by what they unpack to.
func TestMissingLayers(t *testing.T) {
	sum := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	store := &overlayStore{root: t.TempDir()}
	dir := store.layerDir(digest.Digest(sum("f")))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "diff"), []byte(sum("1")), 0o600); err != nil {
		t.Fatal(err)
	}
	manifest := engine.Blob{Digest: sum("a"), MediaType: ocispec.MediaTypeImageManifest}
	config := engine.Blob{Digest: sum("b"), MediaType: ocispec.MediaTypeImageConfig}
	known := engine.Blob{Digest: sum("c"), MediaType: ocispec.MediaTypeImageLayerGzip, Diff: sum("1")}
	unknown := engine.Blob{Digest: sum("d"), MediaType: ocispec.MediaTypeImageLayerZstd, Diff: sum("2")}
	img := engine.Image{Name: "x", Target: manifest, Blobs: []engine.Blob{manifest, config, known, unknown}}
	missing, err := store.missing(t.Context(), img)
	if err != nil || !slices.Equal(missing, []engine.Blob{config, unknown}) {
		t.Errorf("missing are %v, %v", missing, err)
	}
	if id, err := store.find(t.Context(), img); id != "" || err != nil {
		t.Errorf("an image that is not there is %q, %v", id, err)
	}
	if got := blobsByDiff(img); got[digest.Digest(sum("2"))] != unknown || len(got) != 2 {
		t.Errorf("layers by what they unpack to are %v", got)
	}
}

func TestStorage(t *testing.T) {
	kept := [][2]string{{"driver-type", "io.containerd.snapshotter.v1"}}
	for name, info := range map[string]system.Info{
		"another driver": {Driver: "btrfs"}, "another snapshotter": {Driver: "native", DriverStatus: kept},
		"containerd that does not answer": {Driver: overlayfs, DriverStatus: kept, Containerd: &system.ContainerdInfo{Address: filepath.Join(t.TempDir(), "none.sock")}},
	} {
		e := &Engine{opts: Options{Namespace: Namespace}, driver: info.Driver}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		e.store, e.storeErr = e.openStore(ctx, info)
		cancel()
		if err := e.checkStorage(info); !errors.Is(err, engine.ErrUnsupported) || engine.RemedyOf(err) == "" {
			t.Errorf("%s: %v, remedy %q", name, err, engine.RemedyOf(err))
		}
		if err := e.store.close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := &Engine{driver: overlay2}
	if _, err := e.openStore(t.Context(), system.Info{Driver: overlay2}); err != nil {
		t.Error(err)
	}
	if err := e.checkStorage(system.Info{Driver: overlayfs, DriverStatus: kept}); !errors.Is(err, engine.ErrUnsupported) {
		t.Errorf("a daemon whose storage has changed: %v", err)
	}
}

func TestNewSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{filepath.Join(dir, "none.sock"): "start Docker", file: "not a socket"} {
		if _, err := New(t.Context(), Options{Socket: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New at %s: %v, want %q", path, err, want)
		}
	}
}

func TestKindsThatStay(t *testing.T) {
	for name, h := range map[string]*container.HostConfig{
		"privileged": {Privileged: true}, "shared memory": {IpcMode: "shareable"}, "pids": {PidMode: "host"}, "links": {Links: []string{"a:b"}},
		"runtime": {Runtime: "kata"}, "devices": {Resources: container.Resources{Devices: []container.DeviceMapping{{}}}},
	} {
		err := checkKind(&container.InspectResponse{Name: "/web", HostConfig: h})
		if !errors.Is(err, engine.ErrUnsupported) || engine.RemedyOf(err) == "" {
			t.Errorf("%s: %v, remedy %q", name, err, engine.RemedyOf(err))
		}
	}
	if err := checkKind(&container.InspectResponse{Name: "/web", HostConfig: &container.HostConfig{IpcMode: "private", Runtime: "runc"}}); err != nil {
		t.Error(err)
	}
}
