package imagestore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
)

// Missing lists those of the blobs that are not there.
func (s *Store) Missing(ctx context.Context, blobs []engine.Blob) ([]engine.Blob, error) {
	var missing []engine.Blob
	for _, b := range blobs {
		_, err := s.client.ContentStore().Info(ctx, digest.Digest(b.Digest))
		switch {
		case errdefs.IsNotFound(err):
			missing = append(missing, b)
		case err != nil:
			return nil, fmt.Errorf("look up blob %s: %w", b.Digest, err)
		}
	}
	return missing, nil
}

// Open opens a blob, which must have the size that is expected.
func (s *Store) Open(ctx context.Context, b engine.Blob) (io.ReadCloser, error) {
	reader, err := s.client.ContentStore().ReaderAt(ctx, Descriptor(b))
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

// Ingest stores a blob and verifies it. While another migration stores the same blob it waits; a blob that is there by
// then is read from r all the same, so that the stream it comes from stays in step.
func (s *Store) Ingest(ctx context.Context, b engine.Blob, r io.Reader) error {
	if _, err := digest.Parse(b.Digest); err != nil {
		return fmt.Errorf("store blob %q: %w", b.Digest, err)
	}
	store, ref := s.client.ContentStore(), "migrate-"+b.Digest
	w, err := content.OpenWriter(ctx, store, content.WithRef(ref), content.WithDescriptor(Descriptor(b)))
	if errdefs.IsAlreadyExists(err) {
		return readOut(b, r)
	} else if err != nil {
		return fmt.Errorf("store blob %s: %w", b.Digest, err)
	}
	if err := writeBlob(ctx, w, b, r); err != nil {
		w.Close()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortLimit)
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
func writeBlob(ctx context.Context, w content.Writer, b engine.Blob, r io.Reader) error {
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
