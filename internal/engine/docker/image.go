package docker

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"migrate/internal/engine"
)

// What an image consists of here: its configuration, whose digest is the image's id, and its layers as plain archives, each with
// the digest that the configuration lists.
const (
	configType = "application/vnd.docker.container.image.v1+json"
	layerType  = "application/vnd.docker.image.rootfs.diff.tar"
)

// maxConfig bounds an image's configuration, in bytes.
const maxConfig = 8 << 20

// An overlayStore is the daemon's own: its layers are directories, and the compressed archives that a registry has are not kept.
type overlayStore struct {
	root string // the daemon's data
	api  *client.Client
}

func (s *overlayStore) files(context.Context) string { return filepath.Join(s.root, overlay2) }
func (s *overlayStore) close() error                 { return nil }

// imageFile is where the daemon keeps an image's configuration (moby, image/fs.go).
func (s *overlayStore) imageFile(id digest.Digest) string {
	return filepath.Join(s.root, "image", overlay2, "imagedb", "content", id.Algorithm().String(), id.Encoded())
}

// layerDir is where the daemon describes a layer on top of those below it (moby, layer/filestore.go).
func (s *overlayStore) layerDir(chain digest.Digest) string {
	return filepath.Join(s.root, "image", overlay2, "layerdb", chain.Algorithm().String(), chain.Encoded())
}

func (s *overlayStore) describe(_ context.Context, r *container.InspectResponse) (engine.Image, error) {
	id, err := digest.Parse(r.Image)
	if err != nil {
		return engine.Image{}, fmt.Errorf("image id %q: %w", r.Image, err)
	}
	raw, err := os.ReadFile(s.imageFile(id))
	if err != nil {
		return engine.Image{}, fmt.Errorf("read the configuration of image %s: %w", id, err)
	}
	diffs, err := layersOf(id, raw)
	if err != nil {
		return engine.Image{}, err
	}
	target := engine.Blob{Digest: id.String(), MediaType: configType, Size: int64(len(raw))}
	img := engine.Image{Name: imageName(r), Target: target, Blobs: []engine.Blob{target}}
	seen := map[digest.Digest]bool{}
	for i, chain := range chains(diffs) {
		img.ChainID = chain.String()
		if seen[diffs[i]] { // empty layers repeat
			continue
		}
		seen[diffs[i]] = true
		size, err := s.layerSize(chain)
		if err != nil {
			return engine.Image{}, fmt.Errorf("layer %d of image %q: %w", i, img.Name, err)
		}
		img.Blobs = append(img.Blobs, engine.Blob{Digest: diffs[i].String(), MediaType: layerType, Size: size})
	}
	return img, nil
}

// layersOf reads the layers' digests from an image's configuration, which must be the one that id names.
func layersOf(id digest.Digest, raw []byte) ([]digest.Digest, error) {
	if id.Algorithm().FromBytes(raw) != id {
		return nil, fmt.Errorf("the configuration of image %s has another digest", id)
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return nil, fmt.Errorf("decode the configuration of image %s: %w", id, err)
	}
	return config.RootFS.DiffIDs, nil
}

// chains names each layer together with those below it.
func chains(diffs []digest.Digest) []digest.Digest {
	return identity.ChainIDs(append([]digest.Digest(nil), diffs...))
}

// layerSize is how long the layer's archive is: the daemon keeps what an archive has beside the files' content (tar-split).
func (s *overlayStore) layerSize(chain digest.Digest) (size int64, err error) {
	unpacker, done, err := s.split(chain)
	if err != nil {
		return 0, err
	}
	defer done()
	for {
		entry, err := unpacker.Next()
		switch {
		case errors.Is(err, io.EOF):
			return size, nil
		case err != nil:
			return 0, fmt.Errorf("read the description of layer %s: %w", chain, err)
		case entry.Type == storage.SegmentType:
			size += int64(len(entry.Payload))
		default:
			size += entry.Size
		}
	}
}

func (s *overlayStore) split(chain digest.Digest) (storage.Unpacker, func(), error) {
	f, err := os.Open(filepath.Join(s.layerDir(chain), "tar-split.json.gz"))
	if err != nil {
		return nil, nil, fmt.Errorf("read the description of layer %s: %w", chain, err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("read the description of layer %s: %w", chain, err)
	}
	return storage.NewJSONUnpacker(z), func() { z.Close(); f.Close() }, nil
}

func (s *overlayStore) open(_ context.Context, b engine.Blob) (io.ReadCloser, error) {
	d, err := digest.Parse(b.Digest)
	if err != nil {
		return nil, fmt.Errorf("open blob %q: %w", b.Digest, err)
	}
	if b.MediaType == configType {
		f, err := os.Open(s.imageFile(d))
		if err != nil {
			return nil, fmt.Errorf("open blob %s: %w", b.Digest, err)
		}
		return f, nil
	}
	chain, err := s.findLayer(d)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", b.Digest, err)
	}
	r, err := s.openLayer(chain)
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", b.Digest, err)
	}
	return r, nil
}

// findLayer finds a layer with the given content, whatever lies below it.
func (s *overlayStore) findLayer(diff digest.Digest) (digest.Digest, error) {
	files, err := filepath.Glob(filepath.Join(s.root, "image", overlay2, "layerdb", "sha256", "*", "diff"))
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if have, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(have)) == diff.String() {
			return digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(f))), nil
		}
	}
	return "", errors.New("the daemon has no such layer")
}

// openLayer makes the layer's archive again, to the byte.
func (s *overlayStore) openLayer(chain digest.Digest) (io.ReadCloser, error) {
	cache, err := os.ReadFile(filepath.Join(s.layerDir(chain), "cache-id"))
	if err != nil {
		return nil, fmt.Errorf("find the files of layer %s: %w", chain, err)
	}
	unpacker, done, err := s.split(chain)
	if err != nil {
		return nil, err
	}
	files := storage.NewPathFileGetter(filepath.Join(s.root, overlay2, strings.TrimSpace(string(cache)), "diff"))
	return &layerReader{asm.NewOutputTarStream(files, unpacker), done}, nil
}

type layerReader struct {
	io.ReadCloser
	done func()
}

func (l *layerReader) Close() error {
	err := l.ReadCloser.Close()
	l.done()
	return err
}
