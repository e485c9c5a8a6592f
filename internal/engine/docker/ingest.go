package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// spoolKey is under which a context holds the directory of its migration.
type spoolKey struct{}

// migrations are named so that they can be directories.
var migrations = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Files of a spool beside the layers.
const (
	loadedFile = "loaded" // names the image that was loaded for the migration, and is to be removed with it
	volumeFile = "volumes"
	createFile = "creating" // is there while the daemon is making the container
)

// Hold implements engine.Engine. The daemon has nothing like a lease: what the migration brings lies in a directory until it is
// loaded, and what is loaded is in use from then on.
func (e *Engine) Hold(ctx context.Context, id string) (context.Context, engine.Undo, error) {
	if !migrations.MatchString(id) {
		return nil, nil, fmt.Errorf("migration id %q is not one", id)
	}
	if err := os.MkdirAll(e.opts.Spool, 0o700); err != nil {
		return nil, nil, fmt.Errorf("make the directory for images: %w", err)
	}
	dir := filepath.Join(e.opts.Spool, id)
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, nil, fmt.Errorf("migration %s has a directory at %s: it is under way, or was broken off: %w", id, dir, engine.ErrExists)
	} else if err != nil {
		return nil, nil, fmt.Errorf("make the directory for images: %w", err)
	}
	undo := local.Once(func(context.Context) error { return removeSpool(dir) })
	return context.WithValue(ctx, spoolKey{}, dir), undo, nil
}

func removeSpool(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the directory for images: %w", err)
	}
	return nil
}

func spoolOf(ctx context.Context) (string, bool) {
	dir, ok := ctx.Value(spoolKey{}).(string)
	return dir, ok
}

func spooled(dir string, d digest.Digest) string { return filepath.Join(dir, d.Encoded()) }

// MissingBlobs implements engine.Engine. A layer that any image of this host has need not come, whatever lies below it.
func (e *Engine) MissingBlobs(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	if err := validImage(img); err != nil {
		return nil, err
	}
	if e.hasImage(digest.Digest(img.Target.Digest)) {
		return nil, nil
	}
	dir, held := spoolOf(ctx)
	var missing []engine.Blob
	for _, b := range img.Blobs {
		d := digest.Digest(b.Digest)
		if held {
			if _, err := os.Stat(spooled(dir, d)); err == nil {
				continue
			}
		}
		if b.MediaType == layerType {
			if _, err := e.findLayer(d); err == nil {
				continue
			}
		}
		missing = append(missing, b)
	}
	return missing, nil
}

func (e *Engine) hasImage(id digest.Digest) bool {
	_, err := os.Stat(e.imageFile(id))
	return err == nil
}

func validImage(img engine.Image) error {
	if img.Name == "" || len(img.Name) > 1024 {
		return fmt.Errorf("image name %q is empty or too long", img.Name)
	}
	for i, b := range img.Blobs {
		d, err := digest.Parse(b.Digest)
		if err != nil || d.Algorithm() != digest.SHA256 || b.Size < 0 {
			return fmt.Errorf("image %q: blob %q of %d bytes is not one", img.Name, b.Digest, b.Size)
		}
		if (i == 0) != (b.MediaType == configType) || i > 0 && b.MediaType != layerType || i == 0 && b.Size > maxConfig {
			return fmt.Errorf("image %q: blob %q is a %q of %d bytes: %w", img.Name, b.Digest, b.MediaType, b.Size, engine.ErrUnsupported)
		}
	}
	if len(img.Blobs) == 0 || img.Blobs[0].Digest != img.Target.Digest {
		return fmt.Errorf("image %q: its blobs do not begin with its configuration", img.Name)
	}
	return nil
}

// IngestBlob implements engine.Engine.
func (e *Engine) IngestBlob(ctx context.Context, b engine.Blob, r io.Reader) error {
	d, err := digest.Parse(b.Digest)
	if err != nil {
		return fmt.Errorf("store blob %q: %w", b.Digest, err)
	}
	dir, held := spoolOf(ctx)
	if !held {
		return fmt.Errorf("store blob %s: the migration has no directory for it", b.Digest)
	}
	f, err := os.CreateTemp(dir, "incoming-")
	if err != nil {
		return fmt.Errorf("store blob %s: %w", b.Digest, err)
	}
	err = errors.Join(store(f, d, b.Size, r), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), spooled(dir, d))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store blob %s: %w", b.Digest, err), ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// store copies exactly size bytes and refuses trailing ones, and others than those of the digest.
func store(w io.Writer, d digest.Digest, size int64, r io.Reader) error {
	verifier := d.Verifier()
	n, err := io.Copy(io.MultiWriter(w, verifier), io.LimitReader(r, size))
	if err != nil {
		return err
	}
	if n < size {
		return fmt.Errorf("ends after %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	var extra [1]byte
	if n, err := io.ReadFull(r, extra[:]); n > 0 {
		return fmt.Errorf("goes on after its %d bytes", size)
	} else if err != io.EOF {
		return err
	}
	if !verifier.Verified() {
		return errors.New("its content is another")
	}
	return nil
}
