//go:build inhost

package containerd

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const testImage = "localhost/enginetest:1"

// importImage puts an image into the source namespace whose only layers are this test binary and an empty one.
func importImage(t *testing.T, c *client.Client) client.Image {
	t.Helper()
	ctx := sourceContext()
	if image, err := c.GetImage(ctx, testImage); err == nil {
		if unpacked, err := image.IsUnpacked(ctx, "overlayfs"); err == nil && unpacked {
			return image
		}
	}
	archive := imageArchive(t)
	if _, err := c.Import(ctx, bytes.NewReader(archive)); err != nil {
		t.Fatalf("import image: %v", err)
	}
	image, err := c.GetImage(ctx, testImage)
	check(t, err)
	check(t, image.Unpack(ctx, "overlayfs"))
	return image
}

// layout is an OCI image layout in the making.
type layout struct{ files map[string][]byte }

func (l *layout) add(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.NewDigestFromBytes(digest.SHA256, sum(data))
	l.files["blobs/sha256/"+d.Encoded()] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

func sum(data []byte) []byte { s := sha256.Sum256(data); return s[:] }

func (l *layout) addJSON(mediaType string, v any) ocispec.Descriptor {
	return l.add(mediaType, must(json.Marshal(v)))
}

func imageArchive(t *testing.T) []byte {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	check(t, err)
	l := &layout{files: map[string][]byte{}}
	program := tarball(map[string][]byte{"workload": self}, 0o755)
	second := tarball(map[string][]byte{"etc/motd": []byte("hello\n")}, 0o644)
	platform := ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	config := l.addJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platform,
		Config:   ocispec.ImageConfig{Entrypoint: []string{"/workload"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(program), digest.FromBytes(second)}},
	})
	manifest := l.addJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []ocispec.Descriptor{l.add(ocispec.MediaTypeImageLayer, program), l.add(ocispec.MediaTypeImageLayer, second)},
	})
	manifest.Platform = &platform
	foreign := ocispec.Descriptor{ // a platform nobody pulled
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("elsewhere"), Size: 9,
		Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"},
	}
	index := l.addJSON(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{foreign, manifest},
	})
	index.Annotations = map[string]string{"io.containerd.image.name": testImage}
	l.files["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	l.files["index.json"] = must(json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{index},
	}))
	return tarball(l.files, 0o644)
}

func tarball(files map[string][]byte, mode int64) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			panic(fmt.Sprintf("write tar header: %v", err))
		}
		must(w.Write(data))
	}
	must(0, w.Close())
	return out.Bytes()
}
