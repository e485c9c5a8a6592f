package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// holdLimit is when containerd lets go of what a migration registered, should nobody come to undo the hold.
const holdLimit = 24 * time.Hour

// Hold implements engine.Engine with a lease.
func (e *Engine) Hold(ctx context.Context, id string) (context.Context, engine.Undo, error) {
	if err := validName("migration id", id); err != nil {
		return nil, nil, err
	}
	cctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	lease, err := e.client.LeasesService().Create(cctx,
		leases.WithID(leaseID(id)), leases.WithExpiration(holdLimit), leases.WithLabel(ownerLabel, id))
	if errdefs.IsAlreadyExists(err) {
		return nil, nil, fmt.Errorf("migration %s holds a lease: it is under way, or was broken off: `ctr -n %s leases rm migrate-%s`: %w",
			id, e.opts.Namespace, id, engine.ErrExists)
	} else if err != nil {
		return nil, nil, fmt.Errorf("hold content for migration %s: %w", id, err)
	}
	return leases.WithLease(ctx, lease.ID), local.Once(e.release(lease)), nil
}

// release waits for the garbage collector, so that a failed migration has left nothing when its undos are through.
func (e *Engine) release(lease leases.Lease) engine.Undo {
	return func(ctx context.Context) error {
		ctx, cancel := e.call(ctx, createLimit)
		defer cancel()
		err := e.client.LeasesService().Delete(ctx, lease, leases.SynchronousDelete)
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("release lease %s: %w", lease.ID, err)
		}
		return nil
	}
}

// MissingBlobs implements engine.Engine.
func (e *Engine) MissingBlobs(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	if err := validImage(img); err != nil {
		return nil, err
	}
	var missing []engine.Blob
	for _, b := range img.Blobs {
		_, err := e.client.ContentStore().Info(ctx, digest.Digest(b.Digest))
		switch {
		case errdefs.IsNotFound(err):
			missing = append(missing, b)
		case err != nil:
			return nil, fmt.Errorf("look up blob %s: %w", b.Digest, err)
		}
	}
	return missing, nil
}

// IngestBlob implements engine.Engine. While another migration stores the same blob it waits; a blob that is there by
// then is read from r all the same, so that the stream it comes from stays in step.
func (e *Engine) IngestBlob(ctx context.Context, b engine.Blob, r io.Reader) error {
	ctx = e.unlimited(ctx)
	if _, err := digest.Parse(b.Digest); err != nil {
		return fmt.Errorf("store blob %q: %w", b.Digest, err)
	}
	store, ref := e.client.ContentStore(), "migrate-"+b.Digest
	w, err := content.OpenWriter(ctx, store, content.WithRef(ref), content.WithDescriptor(descriptor(b)))
	if errdefs.IsAlreadyExists(err) {
		return readOut(b, r)
	} else if err != nil {
		return fmt.Errorf("store blob %s: %w", b.Digest, err)
	}
	if err := e.writeBlob(ctx, w, b, r); err != nil {
		w.Close()
		cctx, cancel := e.call(context.WithoutCancel(ctx), callLimit)
		defer cancel()
		if aerr := store.Abort(cctx, ref); aerr != nil && !errdefs.IsNotFound(aerr) {
			err = errors.Join(err, fmt.Errorf("abort ingest: %w", aerr))
		}
		return fmt.Errorf("store blob %s: %w", b.Digest, err)
	}
	return w.Close()
}

// writeBlob fills the writer. One that is full from the start stands for content that another containerd namespace has;
// what an earlier attempt left half-way is started over, since its bytes were never checked.
func (e *Engine) writeBlob(ctx context.Context, w content.Writer, b engine.Blob, r io.Reader) error {
	st, err := w.Status()
	if err != nil {
		return err
	}
	if st.Offset == b.Size && b.Size > 0 {
		err = readOut(b, r)
	} else if err = w.Truncate(0); err == nil {
		err = copyExactly(w, b, r)
	}
	if err != nil {
		return err
	}
	err = w.Commit(ctx, b.Size, digest.Digest(b.Digest))
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func readOut(b engine.Blob, r io.Reader) error {
	verifier := digest.Digest(b.Digest).Verifier()
	if err := copyExactly(verifier, b, r); err != nil {
		return fmt.Errorf("read blob %s, which is there already: %w", b.Digest, err)
	}
	if !verifier.Verified() {
		return fmt.Errorf("read blob %s, which is there already: what was sent is another", b.Digest)
	}
	return nil
}

// copyExactly copies the blob's bytes and nothing more, and refuses trailing ones.
func copyExactly(w io.Writer, b engine.Blob, r io.Reader) error {
	n, err := io.Copy(w, io.LimitReader(r, b.Size))
	if err != nil {
		return err
	}
	if n < b.Size {
		return fmt.Errorf("ends after %d of %d bytes: %w", n, b.Size, io.ErrUnexpectedEOF)
	}
	var extra [1]byte
	if n, err := io.ReadFull(r, extra[:]); n > 0 {
		return fmt.Errorf("goes on after its %d bytes", b.Size)
	} else if err != io.EOF {
		return err
	}
	return nil
}
