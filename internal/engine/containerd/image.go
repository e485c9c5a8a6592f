package containerd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

// errOtherImage says that an image is not what the container's root file system was made from.
var errOtherImage = errors.New("no manifest of the image matches the container's root file system")

// path is the way through an image from its target down to one manifest, and what that holds.
type path struct {
	indexes  []ocispec.Descriptor // outermost first
	manifest ocispec.Descriptor
	config   ocispec.Descriptor
	layers   []ocispec.Descriptor
	chainID  string
}

// describeImage lists the blobs of the image's manifest that chainID was unpacked from. Going by the snapshot rather
// than by the platform is exact also for images of another architecture, and finds out that a tag was moved.
func (e *Engine) describeImage(ctx context.Context, name, chainID string) (engine.Image, error) {
	record, err := e.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return engine.Image{}, fmt.Errorf("image %q of the container was removed: pull it again: %w", name, err)
	} else if err != nil {
		return engine.Image{}, fmt.Errorf("look up image %q: %w", name, err)
	}
	p, err := findManifest(ctx, e.client.ContentStore(), record.Target, chainID)
	if errors.Is(err, errOtherImage) {
		return engine.Image{}, fmt.Errorf("image %q changed since the container was made from it: tag the old one again, or remake the container: %w", name, err)
	} else if err != nil {
		return engine.Image{}, fmt.Errorf("image %q: %w", name, err)
	}
	img := engine.Image{
		Name: name, Target: plainBlob(record.Target), Labels: record.Labels, ChainID: p.chainID, Blobs: p.blobs(),
	}
	return img, e.checkBlobs(ctx, img)
}

func (p *path) blobs() []engine.Blob {
	all := slices.Concat(p.indexes, []ocispec.Descriptor{p.manifest, p.config}, p.layers)
	var blobs []engine.Blob
	seen := map[digest.Digest]bool{}
	for _, d := range all {
		if !seen[d.Digest] { // empty layers repeat
			seen[d.Digest] = true
			blobs = append(blobs, plainBlob(d))
		}
	}
	return blobs
}

func plainBlob(d ocispec.Descriptor) engine.Blob {
	return engine.Blob{Digest: d.Digest.String(), MediaType: d.MediaType, Size: d.Size}
}

func descriptor(b engine.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.Digest(b.Digest), MediaType: b.MediaType, Size: b.Size}
}

// checkBlobs makes sure that every blob is there to be sent.
func (e *Engine) checkBlobs(ctx context.Context, img engine.Image) error {
	for _, b := range img.Blobs {
		info, err := e.client.ContentStore().Info(ctx, digest.Digest(b.Digest))
		switch {
		case errdefs.IsNotFound(err):
			return fmt.Errorf("blob %s (%s) of image %q is not in the content store; with discard_unpacked_layers containerd "+
				"drops layers once they are unpacked: pull the image on the destination, or here with "+
				"`ctr -n %s content fetch %s`: %w", b.Digest, b.MediaType, img.Name, e.opts.Namespace, img.Name, err)
		case err != nil:
			return fmt.Errorf("look up blob %s of image %q: %w", b.Digest, img.Name, err)
		case info.Size != b.Size:
			return fmt.Errorf("blob %s of image %q has %d bytes instead of %d", b.Digest, img.Name, info.Size, b.Size)
		}
	}
	return nil
}

// findManifest searches what target refers to for the manifest whose layers make chainID.
func findManifest(ctx context.Context, store content.Provider, target ocispec.Descriptor, chainID string) (*path, error) {
	return (&finder{store: store, chainID: chainID}).search(ctx, target, nil)
}

type finder struct {
	store   content.Provider
	chainID string
}

func (f *finder) search(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor) (*path, error) {
	switch {
	case images.IsManifestType(d.MediaType):
		return f.manifest(ctx, d, above)
	case images.IsIndexType(d.MediaType) && len(above) < maxNesting:
		return f.index(ctx, d, above)
	}
	return nil, fmt.Errorf("%s is a %q, which is neither index nor manifest: %w", d.Digest, d.MediaType, engine.ErrUnsupported)
}

// index tries this host's platform first; manifests of platforms that were never pulled are not there.
func (f *finder) index(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor) (*path, error) {
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
		case errdefs.IsNotFound(err), errors.Is(err, errOtherImage), errors.Is(err, engine.ErrUnsupported):
		default:
			return nil, err
		}
	}
	return nil, errOtherImage
}

func rank(host platforms.Matcher, d ocispec.Descriptor) int {
	if d.Platform != nil && host.Match(*d.Platform) {
		return 0
	}
	return 1
}

func (f *finder) manifest(ctx context.Context, d ocispec.Descriptor, above []ocispec.Descriptor) (*path, error) {
	var manifest ocispec.Manifest
	if err := readJSON(ctx, f.store, d, &manifest); err != nil {
		return nil, err
	}
	if !images.IsConfigType(manifest.Config.MediaType) {
		return nil, errOtherImage // an attestation or another artifact
	}
	var config ocispec.Image
	if err := readJSON(ctx, f.store, manifest.Config, &config); err != nil {
		return nil, err
	}
	chain := ""
	if len(config.RootFS.DiffIDs) > 0 {
		chain = identity.ChainID(config.RootFS.DiffIDs).String()
	}
	if chain != f.chainID {
		return nil, errOtherImage
	}
	return &path{indexes: above, manifest: d, config: manifest.Config, layers: manifest.Layers, chainID: chain}, nil
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

// OpenBlob implements engine.Engine.
func (e *Engine) OpenBlob(ctx context.Context, b engine.Blob) (io.ReadCloser, error) {
	reader, err := e.client.ContentStore().ReaderAt(e.unlimited(ctx), descriptor(b))
	if err != nil {
		return nil, fmt.Errorf("open blob %s: %w", b.Digest, err)
	}
	if reader.Size() != b.Size {
		reader.Close()
		return nil, fmt.Errorf("open blob %s: it has %d bytes instead of %d", b.Digest, reader.Size(), b.Size)
	}
	return &blobReader{Reader: io.NewSectionReader(reader, 0, b.Size), Closer: reader}, nil
}

type blobReader struct {
	io.Reader
	io.Closer
}
