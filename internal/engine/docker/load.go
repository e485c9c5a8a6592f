package docker

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
	"migrate/internal/engine/local"
)

// PrepareImage implements engine.Engine. The image gets no name from a peer: the container refers to it by its id, unless an
// image of this host has the name already and is the same.
func (e *Engine) PrepareImage(ctx context.Context, c *engine.Container) (engine.Undo, error) {
	if err := validImage(c.Image); err != nil {
		return nil, err
	}
	ctx, cancel := e.call(ctx, loadLimit)
	defer cancel()
	if id, err := e.store.find(ctx, c.Image); err != nil {
		return nil, fmt.Errorf("prepare image %q: %w", c.Image.Name, err)
	} else if id != "" {
		return local.Nothing, nil
	}
	dir, held := spoolOf(ctx)
	if !held {
		return nil, fmt.Errorf("prepare image %q: the migration has no directory for it", c.Image.Name)
	}
	undo := local.Nothing
	note := func(id digest.Digest) error {
		undo = local.Once(e.removeImage(id))
		return os.WriteFile(filepath.Join(dir, loadedFile), []byte(id), 0o600)
	}
	if err := e.store.load(ctx, c.Image, note); err != nil {
		err = fmt.Errorf("load image %q: %w", c.Image.Name, err)
		return nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
	}
	return undo, nil
}

// removeImage leaves an image that a container uses, or that somebody has given a name.
func (e *Engine) removeImage(id digest.Digest) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := e.call(ctx, callLimit)
		defer cancel()
		res, err := e.api.ImageInspect(ctx, id.String())
		if errdefs.IsNotFound(err) {
			return nil
		} else if err != nil {
			return fmt.Errorf("look up image %s: %w", id, err)
		}
		if len(res.RepoTags) > 0 {
			return nil
		}
		_, err = e.api.ImageRemove(ctx, id.String(), client.ImageRemoveOptions{PruneChildren: true})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			return fmt.Errorf("remove image %s: %w", id, err)
		}
		return nil
	}
}

// load gives the daemon what docker-save(1) would have written, without the layers that it has.
func (s *overlayStore) load(ctx context.Context, img engine.Image, note func(digest.Digest) error) error {
	dir, _ := spoolOf(ctx)
	id := configOf(img)
	if err := note(id); err != nil {
		return err
	}
	raw, err := os.ReadFile(spooled(dir, id))
	if err != nil {
		return fmt.Errorf("read its configuration: %w", err)
	}
	diffs, err := layersOf(id, raw)
	if err != nil {
		return err
	}
	a := &archive{store: s, dir: dir, blobs: blobsByDiff(img), written: map[digest.Digest]bool{}}
	r, w := io.Pipe()
	go func() { w.CloseWithError(a.write(w, id, raw, diffs)) }()
	res, err := s.api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		r.CloseWithError(err)
		return err
	}
	err = errors.Join(loadError(res), res.Close(), r.Close())
	if err == nil && !s.has(id) {
		err = errors.New("the daemon says that it has loaded it, and does not have it")
	}
	return err
}

// loadError reads the daemon's answer, a sequence of JSON objects, to its end.
func loadError(r io.Reader) error {
	dec := json.NewDecoder(r)
	for {
		var msg struct{ Error string }
		if err := dec.Decode(&msg); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the daemon's answer: %w", err)
		}
		if msg.Error != "" {
			return errors.New(msg.Error)
		}
	}
}

// savedImage is one entry of an archive's manifest.json.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// An archive is what the daemon loads an image from.
type archive struct {
	store   *overlayStore
	dir     string                        // of what has come
	blobs   map[digest.Digest]engine.Blob // that has, or would have; by what they unpack to
	written map[digest.Digest]bool
}

// blobsByDiff are an image's layers by what they unpack to.
func blobsByDiff(img engine.Image) map[digest.Digest]engine.Blob {
	out := map[digest.Digest]engine.Blob{}
	for _, b := range img.Blobs {
		if isLayer(b) {
			out[diffOf(b)] = b
		}
	}
	return out
}

func (a *archive) write(w io.Writer, id digest.Digest, raw []byte, diffs []digest.Digest) error {
	t := tar.NewWriter(w)
	entry := savedImage{Config: id.Encoded() + ".json"}
	for _, d := range diffs {
		entry.Layers = append(entry.Layers, d.Encoded()+".tar")
	}
	manifest, err := json.Marshal([]savedImage{entry})
	if err != nil {
		return fmt.Errorf("encode the archive's manifest: %w", err)
	}
	if err := errors.Join(writeFile(t, "manifest.json", manifest), writeFile(t, entry.Config, raw)); err != nil {
		return err
	}
	for i, chain := range chains(diffs) {
		if _, err := os.Stat(a.store.layerDir(chain)); err == nil || a.written[diffs[i]] {
			continue // it is there, on top of the same layers, or in the archive
		}
		a.written[diffs[i]] = true
		if err := a.writeLayer(t, diffs[i]); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return t.Close()
}

func writeFile(t *tar.Writer, name string, data []byte) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}

// writeLayer takes a layer from what has come, or from another image of this host. The daemon unpacks what is compressed, and compares what it
// unpacks to with the configuration.
func (a *archive) writeLayer(t *tar.Writer, diff digest.Digest) error {
	name := diff.Encoded() + ".tar"
	if b, ok := a.blobs[diff]; ok {
		if f, err := os.Open(spooled(a.dir, digest.Digest(b.Digest))); err == nil {
			defer f.Close()
			return copyFile(t, name, b.Size, f)
		}
	}
	chain, err := a.store.findLayer(diff)
	if err != nil {
		return err
	}
	size, err := a.store.layerSize(chain)
	if err != nil {
		return err
	}
	r, err := a.store.openLayer(chain)
	if err != nil {
		return err
	}
	defer r.Close()
	return copyFile(t, name, size, r)
}

func copyFile(t *tar.Writer, name string, size int64, r io.Reader) error {
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(t, r)
	return err
}
