package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
)

// describeImage lists the blobs of the image's manifest that chainID was unpacked from.
func (e *Engine) describeImage(ctx context.Context, name, chainID string) (engine.Image, error) {
	record, err := e.client.ImageService().Get(ctx, name)
	if errdefs.IsNotFound(err) {
		return engine.Image{}, fmt.Errorf("image %q of the container was removed: pull it again: %w", name, err)
	} else if err != nil {
		return engine.Image{}, fmt.Errorf("look up image %q: %w", name, err)
	}
	p, err := e.images.Find(ctx, record.Target, chainID)
	if errors.Is(err, imagestore.ErrOther) {
		return engine.Image{}, fmt.Errorf("image %q changed since the container was made from it: tag the old one again, or remake the container: %w", name, err)
	} else if err != nil {
		return engine.Image{}, fmt.Errorf("image %q: %w", name, err)
	}
	img := engine.Image{
		Name: name, Target: imagestore.Plain(record.Target), Labels: record.Labels, ChainID: p.ChainID, Blobs: p.Blobs(),
	}
	return img, e.checkBlobs(ctx, img)
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

// OpenBlob implements engine.Engine.
func (e *Engine) OpenBlob(ctx context.Context, b engine.Blob) (io.ReadCloser, error) {
	return e.images.Open(e.unlimited(ctx), b)
}
