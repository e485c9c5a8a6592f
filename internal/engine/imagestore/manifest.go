package imagestore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"migrate/internal/engine"
)

// Limits of what is read of an image, which may be a peer's.
const (
	maxManifest  = 8 << 20 // bytes of an index, manifest or config; what containerd itself accepts
	maxNesting   = 4       // indexes within indexes
	maxManifests = 1000    // in one index
)

// ErrOther says that an image is not what the container's root file system was made from.
var ErrOther = errors.New("no manifest of the image matches the container's root file system")

// Path is the way through an image from its target down to one manifest, and what that holds.
type Path struct {
	Indexes  []ocispec.Descriptor // outermost first
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	DiffIDs  []digest.Digest // of the layers, as archives
	ChainID  string
}

// Blobs lists what the way leads over, and to.
func (p *Path) Blobs() []engine.Blob {
	all := slices.Concat(p.Indexes, []ocispec.Descriptor{p.Manifest, p.Config}, p.Layers)
	var blobs []engine.Blob
	seen := map[digest.Digest]bool{}
	for _, d := range all {
		if !seen[d.Digest] { // empty layers repeat
			seen[d.Digest] = true
			blobs = append(blobs, Plain(d))
		}
	}
	return blobs
}

// Plain is a blob without what only containerd knows of it.
func Plain(d ocispec.Descriptor) engine.Blob {
	return engine.Blob{Digest: d.Digest.String(), MediaType: d.MediaType, Size: d.Size}
}

// Descriptor is Plain's reverse.
func Descriptor(b engine.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.Digest(b.Digest), MediaType: b.MediaType, Size: b.Size}
}

// Find searches what target refers to for the manifest whose layers make chainID. Going by the snapshot rather
// than by the platform is exact also for images of another architecture, and finds out that a tag was moved.
func (s *Store) Find(ctx context.Context, target ocispec.Descriptor, chainID string) (*Path, error) {
	return findManifest(ctx, s.client.ContentStore(), target, chainID)
}

func findManifest(ctx context.Context, store content.Provider, target ocispec.Descriptor, chainID string) (*Path, error) {
	return (&finder{store: store, chainID: chainID}).search(ctx, target, nil)
}

type finder struct {
	store   content.Provider
	chainID string
}

func (f *finder) search(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor) (*Path, error) {
	switch {
	case images.IsManifestType(d.MediaType):
		return f.manifest(ctx, d, above)
	case images.IsIndexType(d.MediaType) && len(above) < maxNesting:
		return f.index(ctx, d, above)
	}
	return nil, fmt.Errorf("%s is a %q, which is neither index nor manifest: %w", d.Digest, d.MediaType, engine.ErrUnsupported)
}

// index tries this host's platform first; manifests of platforms that were never pulled are not there.
func (f *finder) index(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor) (*Path, error) {
	var index ocispec.Index
	if err := readJSON(ctx, f.store, d, &index); err != nil {
		return nil, err
	}
	if len(index.Manifests) > maxManifests {
		return nil, fmt.Errorf("index %s lists %d manifests, more than %d", d.Digest, len(index.Manifests), maxManifests)
	}
	host := platforms.Default()
	slices.SortStableFunc(index.Manifests, func(a, b ocispec.Descriptor) int { return cmp.Compare(rank(host, a), rank(host, b)) })
	above = append(slices.Clone(above), d)
	for _, child := range index.Manifests {
		p, err := f.search(ctx, child, above)
		switch {
		case err == nil:
			return p, nil
		case errdefs.IsNotFound(err), errors.Is(err, ErrOther), errors.Is(err, engine.ErrUnsupported):
		default:
			return nil, err
		}
	}
	return nil, ErrOther
}

func rank(host platforms.Matcher, d ocispec.Descriptor) int {
	if d.Platform != nil && host.Match(*d.Platform) {
		return 0
	}
	return 1
}

func (f *finder) manifest(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor) (*Path, error) {
	var manifest ocispec.Manifest
	if err := readJSON(ctx, f.store, d, &manifest); err != nil {
		return nil, err
	}
	if !images.IsConfigType(manifest.Config.MediaType) {
		return nil, ErrOther // an attestation or another artifact
	}
	var config ocispec.Image
	if err := readJSON(ctx, f.store, manifest.Config, &config); err != nil {
		return nil, err
	}
	chain := ""
	if len(config.RootFS.DiffIDs) > 0 {
		chain = identity.ChainID(slices.Clone(config.RootFS.DiffIDs)).String()
	}
	if chain != f.chainID {
		return nil, ErrOther
	}
	return &Path{Indexes: above, Manifest: d, Config: manifest.Config, Layers: manifest.Layers, DiffIDs: config.RootFS.DiffIDs, ChainID: chain}, nil
}

// readJSON decodes a small blob.
func readJSON(ctx context.Context, store content.Provider, d ocispec.Descriptor, v any) error {
	if d.Size > maxManifest {
		return fmt.Errorf("blob %s has %d bytes, more than the %d of a manifest", d.Digest, d.Size, maxManifest)
	}
	data, err := content.ReadBlob(ctx, store, d)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", d.Digest, err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode blob %s (%s): %w", d.Digest, d.MediaType, err)
	}
	return nil
}
