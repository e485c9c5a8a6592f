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

// Hold implements engine.Engine. What the migration brings lies in its directory until it is loaded, or under a lease of containerd's;
// what is loaded is in use from then on.
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
	held, err := e.store.hold(context.WithValue(ctx, spoolKey{}, dir), id)
	if err != nil {
		return nil, nil, errors.Join(err, removeSpool(dir))
	}
	return held, local.Once(func(ctx context.Context) error { return e.Release(ctx, id) }), nil
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

// hold needs nothing beside the directory.
func (s *overlayStore) hold(ctx context.Context, _ string) (context.Context, error) { return ctx, nil }
func (s *overlayStore) release(context.Context, string) error                       { return nil }

func spooled(dir string, d digest.Digest) string { return filepath.Join(dir, d.Encoded()) }

// find goes by the configuration, whose digest is the image's id.
func (s *overlayStore) find(_ context.Context, img engine.Image) (digest.Digest, error) {
	if id := configOf(img); s.has(id) {
		return id, nil
	}
	return "", nil
}

func (s *overlayStore) is(_ context.Context, id string, img engine.Image) bool {
	return id == configOf(img).String()
}

func (s *overlayStore) has(id digest.Digest) bool {
	_, err := os.Stat(s.imageFile(id))
	return err == nil
}

// missing leaves out layers that any image of this host has, whatever lies below them, and what only a registry's kind of image has.
func (s *overlayStore) missing(ctx context.Context, img engine.Image) ([]engine.Blob, error) {
	dir, held := spoolOf(ctx)
	var missing []engine.Blob
	for _, b := range img.Blobs {
		if !isConfig(b) && !isLayer(b) {
			continue
		}
		if held {
			if _, err := os.Stat(spooled(dir, digest.Digest(b.Digest))); err == nil {
				continue
			}
		}
		if isLayer(b) {
			if _, err := s.findLayer(diffOf(b)); err == nil {
				continue
			}
		}
		missing = append(missing, b)
	}
	return missing, nil
}

// ingest keeps a blob in the directory of the migration until the daemon loads it.
func (s *overlayStore) ingest(ctx context.Context, b engine.Blob, r io.Reader) error {
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
	err = errors.Join(copyVerified(f, d, b.Size, r), f.Close())
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

// copyVerified copies exactly size bytes and refuses trailing ones, and others than those of the digest.
func copyVerified(w io.Writer, d digest.Digest, size int64, r io.Reader) error {
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
