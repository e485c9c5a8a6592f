package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
	"migrate/internal/engine/local"
)

// Hold implements engine.Engine with a lease.
func (e *Engine) Hold(ctx context.Context, id string) (context.Context, engine.Undo, error) {
	if err := validName("migration id", id); err != nil {
		return nil, nil, err
	}
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if err := e.images.Hold(cctx, id); errors.Is(err, engine.ErrExists) {
		return nil, nil, fmt.Errorf("%w: `ctr -n %s leases rm %s`", err, e.opts.Namespace, imagestore.LeaseID(id))
	} else if err != nil {
		return nil, nil, err
	}
	return imagestore.Held(ctx, id), local.Once(func(ctx context.Context) error { return e.Release(ctx, id) }), nil
}

// MissingBlobs implements engine.Engine.
func (e *Engine) MissingBlobs(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if err := validImage(img); err != nil {
		return nil, err
	}
	return e.images.Missing(ctx, img.Blobs)
}

// IngestBlob implements engine.Engine.
func (e *Engine) IngestBlob(ctx context.Context, b engine.Blob, r io.Reader) error {
	return e.images.Ingest(e.unlimited(ctx), b, r)
}
