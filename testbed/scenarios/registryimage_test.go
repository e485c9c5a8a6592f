package scenarios

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"migrate/testbed"
)

// An archive is an image in an OCI layout, by the names in it.
type archive map[string][]byte

func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// add takes in a blob.
func (a archive) add(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	a[blobName(d.Digest)] = b
	return d
}

func (a archive) addJSON(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return a.add(mediaType, b)
}

func (a archive) readJSON(t *testing.T, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(a[name], v); err != nil {
		t.Fatalf("%s of the image: %v", name, err)
	}
}

// savedImage is what `docker save` writes of an image.
func savedImage(t *testing.T, h *testbed.Host, image string) archive {
	t.Helper()
	const path = "/run/scn/saved.tar"
	run(t, h, "docker", "save", "--output", path, image)
	defer os.Remove(h.Path(path))
	f, err := os.Open(h.Path(path))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a := archive{}
	for r := tar.NewReader(f); ; {
		entry, err := r.Next()
		if errors.Is(err, io.EOF) {
			return a
		}
		if err == nil && entry.Typeflag == tar.TypeReg {
			a[entry.Name], err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// write makes a tar archive of it.
func (a archive) write(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for name, b := range a {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(b))})
		if err == nil {
			_, err = w.Write(b)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// manifest finds the one that an index leads to.
func (a archive) manifest(t *testing.T, index ocispec.Index) (m ocispec.Manifest) {
	t.Helper()
	for _, d := range index.Manifests {
		switch name := blobName(d.Digest); {
		case a[name] == nil:
		case strings.Contains(d.MediaType, "index"), strings.Contains(d.MediaType, "manifest.list"):
			var inner ocispec.Index
			a.readJSON(t, name, &inner)
			return a.manifest(t, inner)
		default:
			a.readJSON(t, name, &m)
			return m
		}
	}
	t.Fatal("the image has no manifest")
	return m
}

// packed is a layer compressed by zstd, whatever it was by.
func packed(t *testing.T, layer []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(layer)
	if bytes.HasPrefix(layer, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		r = z
	}
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, r); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// registryImage makes of an image one as it is in a registry, at a host that keeps images in containerd: an index of several platforms, of
// which only this one was pulled, with an attestation, and layers compressed by zstd.
func registryImage(t *testing.T, h *testbed.Host, base, name string) {
	t.Helper()
	from := savedImage(t, h, base)
	var top ocispec.Index
	from.readJSON(t, "index.json", &top)
	old := from.manifest(t, top)
	to := archive{"oci-layout": from["oci-layout"]}
	versioned := specs.Versioned{SchemaVersion: 2}
	made := ocispec.Manifest{Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: to.add(ocispec.MediaTypeImageConfig, from[blobName(old.Config.Digest)])}
	for _, l := range old.Layers {
		made.Layers = append(made.Layers, to.add(ocispec.MediaTypeImageLayerZstd, packed(t, from[blobName(l.Digest)])))
	}
	manifest := to.addJSON(t, ocispec.MediaTypeImageManifest, made)
	manifest.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	other := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("another platform's"), Size: 500,
		Platform: &ocispec.Platform{OS: "linux", Architecture: "riscv64"},
	}
	statement := to.add("application/vnd.in-toto+json", []byte("{}"))
	attestation := to.addJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageManifest, Config: to.add(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers"}}`)),
		Layers: []ocispec.Descriptor{statement},
	})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": manifest.Digest.String()}
	index := to.addJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{other, manifest, attestation},
	})
	text, err := json.Marshal(ocispec.Index{Versioned: versioned, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{index}})
	if err != nil {
		t.Fatal(err)
	}
	to["index.json"] = text
	path := "/run/scn/registry.tar"
	to.write(t, h.Path(path))
	defer os.Remove(h.Path(path))
	run(t, h, "docker", "load", "--input", path)
	run(t, h, "docker", "tag", index.Digest.String(), name)
}

// TestDockerRegistryImage moves a container of an image as registries have them, to each kind of store and back.
func TestDockerRegistryImage(t *testing.T) {
	t.Parallel()
	a, b := stores26.up(t)
	c := stores26.bed.Host("c")
	const name, image = "store-registry", "registry:1"
	agents := map[*testbed.Host]*agent{a: startAgent(t, a), b: startAgent(t, b), c: startAgent(t, c)}
	base := storeImage(t, stores26, "registry-base")
	dockerRun(t, stores26, a, name+"-base", base, "workload", "server", "--listen=", "--memory-mib", "1")
	storeMove(t, name+"-base", a, c, agents[c])
	run(t, c, "docker", "exec", "--user", "root", name+"-base", "sh", "-c", "echo new >/etc/layer") // one that the first host does not have
	run(t, c, "docker", "commit", name+"-base", "registry-base:2")
	registryImage(t, c, "registry-base:2", image)
	dockerRun(t, stores26, c, name, image, "workload", "server", "--listen=", "--memory-mib", "4")
	id := dockerID(t, c, name)
	from := c
	for _, to := range []*testbed.Host{b, a, c} {
		rep := storeMove(t, name, from, to, agents[to])
		if came := rep.Image.Raw > 0; came != (to != c) {
			t.Errorf("on the way to %s %d bytes of the image came", to.Name, rep.Image.Raw)
		}
		storeFile(t, to, name, "/etc/layer", "new")
		from = to
	}
	if back := dockerID(t, c, name); back != id {
		t.Errorf("the image is %s now, and was %s", back, id)
	}
}
