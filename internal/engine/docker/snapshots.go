package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
)

// danglingPrefix is how the daemon calls images in containerd that have no name (moby, daemon/containerd/soft_delete.go).
const danglingPrefix = "moby-dangling@"

// uncompressed is the label by which containerd remembers what a compressed layer unpacks to.
const uncompressed = "containerd.io/uncompressed"

// A snapshotStore is containerd's: an image is what a registry has, its id the digest of its index or manifest, and what a container
// changes is in the snapshot that has the container's id.
type snapshotStore struct {
	address string
	client  *client.Client
	images  *imagestore.Store
}

// openSnapshots connects to the containerd that the daemon uses.
func (e *Engine) openSnapshots(ctx context.Context, info system.Info) (*snapshotStore, error) {
	address := e.containerdSocket(info)
	c, err := client.New(address, client.WithTimeout(connectLimit), client.WithDefaultNamespace(e.opts.Namespace))
	if err == nil {
		if _, err = c.Version(ctx); err != nil {
			c.Close()
		}
	}
	if err != nil {
		return nil, unfit("start containerd", "Docker keeps its images in containerd, which does not answer at %s: %v", address, err)
	}
	return &snapshotStore{address: address, client: c, images: imagestore.New(c)}, nil
}

// containerdSocket is where the daemon says, which versions before 27 do not, or that of the containerd which the daemon has started for want of
// another one (moby, cmd/dockerd, initContainerd), or the usual one.
func (e *Engine) containerdSocket(info system.Info) string {
	if e.opts.Containerd != "" {
		return e.opts.Containerd
	}
	if info.Containerd != nil && info.Containerd.Address != "" {
		return info.Containerd.Address
	}
	own := filepath.Join(e.opts.ExecRoot, "containerd", "containerd.sock")
	if conn, err := net.Dial("unix", own); err == nil {
		conn.Close()
		return own
	}
	return defaultContainerd
}

func (s *snapshotStore) close() error { return s.client.Close() }

func (s *snapshotStore) files(ctx context.Context) string { return s.images.Root(ctx, overlayfs) }

func (s *snapshotStore) upper(ctx context.Context, r *container.InspectResponse) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	mounts, err := s.client.SnapshotService(overlayfs).Mounts(ctx, r.ID)
	if err != nil {
		return "", fmt.Errorf("look up what %s changed in the containerd at %s: %w", what(nameOf(r)), s.address, err)
	}
	return imagestore.UpperDir(overlayfs, mounts)
}

// chainOf names the layers that a container was made on: the daemon puts a snapshot of its own between them and the container's
// (moby, daemon/containerd/image_snapshot.go, prepareInitLayer).
func (s *snapshotStore) chainOf(ctx context.Context, id string) (string, error) {
	for _, key := range []string{id, id + "-init"} {
		info, err := s.client.SnapshotService(overlayfs).Stat(ctx, key)
		if err != nil {
			return "", fmt.Errorf("look up snapshot %q in the containerd at %s: %w", key, s.address, err)
		}
		if info.Parent != id+"-init" {
			return info.Parent, nil
		}
	}
	return "", fmt.Errorf("snapshot %q lies on itself", id)
}

func (s *snapshotStore) describe(ctx context.Context, r *container.InspectResponse) (engine.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	chain, err := s.chainOf(ctx, r.ID)
	if err != nil {
		return engine.Image{}, err
	}
	img := engine.Image{Name: imageName(r), ChainID: chain}
	target, err := s.target(ctx, r.Image)
	if err != nil {
		return engine.Image{}, fmt.Errorf("image %q: %w", img.Name, err)
	}
	p, err := s.images.Find(ctx, target, chain)
	if err != nil {
		return engine.Image{}, fmt.Errorf("image %q: %w", img.Name, err)
	}
	img.Target, img.Blobs = imagestore.Plain(target), p.Blobs()
	unpacked := map[string]digest.Digest{}
	for i, l := range p.Layers[:min(len(p.Layers), len(p.DiffIDs))] {
		unpacked[l.Digest.String()] = p.DiffIDs[i]
	}
	for i, b := range img.Blobs {
		if d := unpacked[b.Digest]; d.String() != b.Digest {
			img.Blobs[i].Diff = d.String()
		}
	}
	missing, err := s.images.Missing(ctx, img.Blobs)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("blob %s (%s) of image %q is not there: pull or load the image again: %w", missing[0].Digest, missing[0].MediaType, img.Name, engine.ErrUnsupported)
	}
	return img, err
}

// target is what an image's id means.
func (s *snapshotStore) target(ctx context.Context, id string) (ocispec.Descriptor, error) {
	d, err := digest.Parse(id)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("image id %q: %w", id, err)
	}
	records, err := s.client.ImageService().List(ctx, "target.digest=="+d.String())
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("look up image %s: %w", d, err)
	}
	if len(records) == 0 {
		return ocispec.Descriptor{}, fmt.Errorf("image %s is not in the containerd at %s: pull or load it again: %w", d, s.address, engine.ErrUnsupported)
	}
	return records[0].Target, nil
}

func (s *snapshotStore) open(ctx context.Context, b engine.Blob) (io.ReadCloser, error) {
	return s.images.Open(ctx, b)
}

// find looks for the very image first, then for another one with the same configuration.
func (s *snapshotStore) find(ctx context.Context, img engine.Image) (digest.Digest, error) {
	records, err := s.client.ImageService().List(ctx)
	if err != nil {
		return "", fmt.Errorf("list images: %w", err)
	}
	for _, same := range []bool{true, false} {
		for _, r := range records {
			if (r.Target.Digest.String() == img.Target.Digest) == same && s.matches(ctx, r.Target, img) {
				return r.Target.Digest, nil
			}
		}
	}
	return "", nil
}

func (s *snapshotStore) is(ctx context.Context, id string, img engine.Image) bool {
	target, err := s.target(ctx, id)
	return err == nil && s.matches(ctx, target, img)
}

// matches says whether an image with the configuration of img is here as a whole.
func (s *snapshotStore) matches(ctx context.Context, target ocispec.Descriptor, img engine.Image) bool {
	p, err := s.images.Find(ctx, target, img.ChainID)
	if err != nil || p.Config.Digest != configOf(img) {
		return false
	}
	missing, err := s.images.Missing(ctx, p.Blobs())
	return err == nil && len(missing) == 0
}

// missing leaves out layers, if they are to come as archives, that are here in compressed form.
func (s *snapshotStore) missing(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	all, err := s.images.Missing(ctx, img.Blobs)
	if err != nil || isAbove(img.Blobs[0]) {
		return all, err
	}
	var missing []engine.Blob
	for _, b := range all {
		if isLayer(b) {
			if _, err := s.packed(ctx, digest.Digest(b.Digest)); err == nil {
				continue
			} else if !errdefs.IsNotFound(err) {
				return nil, err
			}
		}
		missing = append(missing, b)
	}
	return missing, nil
}

// packed finds a compressed layer by what it unpacks to.
func (s *snapshotStore) packed(ctx context.Context, diff digest.Digest) (found content.Info, err error) {
	err = s.client.ContentStore().Walk(ctx, func(info content.Info) error {
		found = info
		return nil
	}, fmt.Sprintf("labels.%q==%q", uncompressed, diff.String()))
	if err == nil && found.Digest == "" {
		err = fmt.Errorf("layer %s: %w", diff, errdefs.ErrNotFound)
	}
	return found, err
}

func (s *snapshotStore) ingest(ctx context.Context, b engine.Blob, r io.Reader) error {
	return s.images.Ingest(ctx, b, r)
}

func (s *snapshotStore) hold(ctx context.Context, id string) (context.Context, error) {
	cctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return imagestore.Held(ctx, id), s.images.Hold(cctx, id)
}

func (s *snapshotStore) release(ctx context.Context, id string) error {
	return s.images.Release(ctx, id)
}

// load registers the image without a name. One that comes without a manifest gets one.
func (s *snapshotStore) load(ctx context.Context, img engine.Image, note func(digest.Digest) error) error {
	target := imagestore.Descriptor(img.Target)
	if isConfig(img.Blobs[0]) {
		var err error
		if target, err = s.compose(ctx, img); err != nil {
			return fmt.Errorf("make its manifest: %w", err)
		}
	}
	p, err := s.images.Find(ctx, target, img.ChainID)
	if err != nil {
		return err
	}
	if p.Config.Digest != configOf(img) {
		return errors.New("its manifest has another configuration")
	}
	if err := s.images.Label(ctx, p); err != nil {
		return err
	}
	if err := note(target.Digest); err != nil {
		return err
	}
	_, err = s.client.ImageService().Create(ctx, images.Image{Name: danglingPrefix + target.Digest.String(), Target: target})
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("register it: %w", err)
	}
	return s.images.Unpack(ctx, overlayfs, p)
}

// compose stores a manifest of the image's configuration and layers.
func (s *snapshotStore) compose(ctx context.Context, img engine.Image) (ocispec.Descriptor, error) {
	config := imagestore.Descriptor(img.Blobs[0])
	raw, err := content.ReadBlob(ctx, s.client.ContentStore(), config)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("read its configuration: %w", err)
	}
	diffs, err := layersOf(config.Digest, raw)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2Manifest, Config: config, Layers: []ocispec.Descriptor{}}
	for _, diff := range diffs {
		layer, err := s.layer(ctx, diff)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, layer)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, s.images.Ingest(ctx, imagestore.Plain(d), bytes.NewReader(data))
}

// layer finds a layer by what it unpacks to.
func (s *snapshotStore) layer(ctx context.Context, diff digest.Digest) (ocispec.Descriptor, error) {
	info, err := s.client.ContentStore().Info(ctx, diff)
	if errdefs.IsNotFound(err) {
		info, err = s.packed(ctx, diff)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("look up layer %s: %w", diff, err)
	}
	d := ocispec.Descriptor{Digest: info.Digest, Size: info.Size}
	d.MediaType, err = s.layerType(ctx, d)
	return d, err
}

// The first bytes of compressed archives.
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// layerType goes by the layer's first bytes.
func (s *snapshotStore) layerType(ctx context.Context, d ocispec.Descriptor) (string, error) {
	r, err := s.images.Open(ctx, imagestore.Plain(d))
	if err != nil {
		return "", err
	}
	defer r.Close()
	head := make([]byte, len(zstdMagic))
	if _, err := io.ReadFull(r, head); err != nil {
		return "", fmt.Errorf("read layer %s: %w", d.Digest, err)
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return images.MediaTypeDockerSchema2LayerGzip, nil
	case bytes.HasPrefix(head, zstdMagic):
		return ocispec.MediaTypeImageLayerZstd, nil // Docker's own is new
	}
	return images.MediaTypeDockerSchema2Layer, nil
}
