package docker

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/system"
	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
)

// A store is where the daemon keeps images, and what containers change on top of them. Images are the same if their configurations
// are, whose digest does not depend on how layers are kept: so a container can move between daemons of either kind.
type store interface {
	// describe lists the blobs of the image that the container was made from.
	describe(ctx context.Context, r *container.InspectResponse) (engine.Image, error)
	open(ctx context.Context, b engine.Blob) (io.ReadCloser, error)

	// find is the id by which the daemon knows an image, "" if it has not got it; is says whether an id of the daemon's means it.
	find(ctx context.Context, img engine.Image) (digest.Digest, error)
	is(ctx context.Context, id string, img engine.Image) bool
	// missing lists what load needs and neither an image of this host nor this migration has brought.
	missing(ctx context.Context, img engine.Image) ([]engine.Blob, error)
	ingest(ctx context.Context, b engine.Blob, r io.Reader) error
	// load makes the image known to the daemon; before that, note is told the id that it will have.
	load(ctx context.Context, img engine.Image, note func(id digest.Digest) error) error

	// hold keeps what is ingested with the returned context until release, which is idempotent.
	hold(ctx context.Context, id string) (context.Context, error)
	release(ctx context.Context, id string) error

	// upper is a container's RW layer.
	upper(ctx context.Context, r *container.InspectResponse) (string, error)
	// files is the directory of the file systems, "" if it is not known.
	files(ctx context.Context) string
	close() error
}

// overlay2 is the storage driver of the daemon's own whose directories are known, overlayfs the snapshotter of containerd's.
const (
	overlay2  = "overlay2"
	overlayfs = "overlayfs"
)

// openStore chooses by the storage driver. With an error, what it returns is only good for being closed.
func (e *Engine) openStore(ctx context.Context, info system.Info) (store, error) {
	own := &overlayStore{root: e.root, api: e.api}
	if keptInContainerd(info) {
		if info.Driver != overlayfs {
			return own, unfit("use the snapshotter overlayfs (storage-driver in daemon.json), and load or pull the images anew",
				"Docker keeps its images in containerd with the snapshotter %q, and only overlayfs keeps what a container changes in a directory of its own", info.Driver)
		}
		s, err := e.openSnapshots(ctx, info)
		if err != nil {
			return own, err
		}
		return s, nil
	}
	if info.Driver != overlay2 {
		return own, unfit("set storage-driver to overlay2 in daemon.json, and load or pull the images anew",
			"Docker's storage driver is %q, and only overlay2 keeps what a container changes in a directory of its own", info.Driver)
	}
	return own, nil
}

// keptInContainerd says whether the daemon has the feature containerd-snapshotter on.
func keptInContainerd(info system.Info) bool {
	return slices.ContainsFunc(info.DriverStatus, func(pair [2]string) bool {
		return pair[0] == "driver-type" && strings.HasPrefix(pair[1], "io.containerd.snapshotter.")
	})
}

// checkStorage refuses what keeps images or what a container changes elsewhere than in known places.
func (e *Engine) checkStorage(info system.Info) error {
	if e.storeErr == nil && info.Driver != e.driver {
		return unfit("start it again", "Docker's storage driver is %q now, and was %q when this agent was started", info.Driver, e.driver)
	}
	return e.storeErr
}

// OpenBlob implements engine.Engine.
func (e *Engine) OpenBlob(ctx context.Context, b engine.Blob) (io.ReadCloser, error) {
	return e.store.open(ctx, b)
}

// MissingBlobs implements engine.Engine.
func (e *Engine) MissingBlobs(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	if err := validImage(img); err != nil {
		return nil, err
	}
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if id, err := e.store.find(ctx, img); err != nil || id != "" {
		return nil, err
	}
	return e.store.missing(ctx, img)
}

// IngestBlob implements engine.Engine.
func (e *Engine) IngestBlob(ctx context.Context, b engine.Blob, r io.Reader) error {
	return e.store.ingest(ctx, b, r)
}

// An image is described in one of two ways: by its configuration and its layers, as archives; or as a registry has it, by a manifest, and
// maybe an index above it, and compressed layers besides, which know what they unpack to.
func isConfig(b engine.Blob) bool { return images.IsConfigType(b.MediaType) }
func isLayer(b engine.Blob) bool  { return images.IsLayerType(b.MediaType) }
func isAbove(b engine.Blob) bool {
	return images.IsManifestType(b.MediaType) || images.IsIndexType(b.MediaType)
}

// configOf is the digest of an image's configuration.
func configOf(img engine.Image) digest.Digest {
	i := slices.IndexFunc(img.Blobs, isConfig)
	if i < 0 {
		return ""
	}
	return digest.Digest(img.Blobs[i].Digest)
}

// diffOf is the digest of what a layer unpacks to.
func diffOf(b engine.Blob) digest.Digest {
	if b.Diff != "" {
		return digest.Digest(b.Diff)
	}
	return digest.Digest(b.Digest)
}

// validImage checks a peer's description.
func validImage(img engine.Image) error {
	if img.Name == "" || len(img.Name) > 1024 {
		return fmt.Errorf("image name %q is empty or too long", img.Name)
	}
	if _, err := digest.Parse(img.ChainID); err != nil && img.ChainID != "" {
		return fmt.Errorf("image %q: chain of layers %q: %w", img.Name, img.ChainID, err)
	}
	part, configs := isAbove, 0 // of the image, which goes from above to below
	for _, b := range img.Blobs {
		for _, d := range []digest.Digest{digest.Digest(b.Digest), diffOf(b)} {
			if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 || b.Size < 0 {
				return fmt.Errorf("image %q: blob %q of %d bytes is not one", img.Name, d, b.Size)
			}
		}
		if isConfig(b) && configs == 0 {
			configs++
			part = isLayer
		} else if !part(b) {
			return fmt.Errorf("image %q: blob %q is a %q: %w", img.Name, b.Digest, b.MediaType, engine.ErrUnsupported)
		}
		if !isLayer(b) && b.Size > maxConfig {
			return fmt.Errorf("image %q: blob %q, a %q, has %d bytes: %w", img.Name, b.Digest, b.MediaType, b.Size, engine.ErrUnsupported)
		}
	}
	if configs == 0 || img.Blobs[0].Digest != img.Target.Digest {
		return fmt.Errorf("image %q: its blobs do not begin with what its name means, or have no configuration", img.Name)
	}
	return nil
}
