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
	id := digest.Digest(c.Image.Target.Digest)
	if e.hasImage(id) {
		return local.Nothing, nil
	}
	dir, held := spoolOf(ctx)
	if !held {
		return nil, fmt.Errorf("prepare image %q: the migration has no directory for it", c.Image.Name)
	}
	ctx, cancel := e.call(ctx, loadLimit)
	defer cancel()
	if err := os.WriteFile(filepath.Join(dir, loadedFile), []byte(id), 0o600); err != nil {
		return nil, fmt.Errorf("prepare image %q: %w", c.Image.Name, err)
	}
	undo := local.Once(e.removeImage(id))
	if err := e.loadImage(ctx, dir, id); err != nil {
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

// loadImage gives the daemon what docker-save(1) would have written, without the layers that it has.
func (e *Engine) loadImage(ctx context.Context, dir string, id digest.Digest) error {
	raw, err := os.ReadFile(spooled(dir, id))
	if err != nil {
		return fmt.Errorf("read its configuration: %w", err)
	}
	diffs, err := layersOf(id, raw)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(e.writeArchive(w, dir, id, raw, diffs)) }()
	res, err := e.api.ImageLoad(ctx, r, client.ImageLoadWithQuiet(true))
	if err != nil {
		r.CloseWithError(err)
		return err
	}
	err = errors.Join(loadError(res), res.Close(), r.Close())
	if err == nil && !e.hasImage(id) {
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

func (e *Engine) writeArchive(w io.Writer, dir string, id digest.Digest, raw []byte, diffs []digest.Digest) error {
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
	written := map[digest.Digest]bool{}
	for i, chain := range chains(diffs) {
		if _, err := os.Stat(e.layerDir(chain)); err == nil || written[diffs[i]] {
			continue // it is there, on top of the same layers, or in the archive
		}
		written[diffs[i]] = true
		if err := e.writeLayer(t, dir, diffs[i]); err != nil {
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

// writeLayer takes a layer from what has come, or from another image of this host.
func (e *Engine) writeLayer(t *tar.Writer, dir string, d digest.Digest) error {
	name := d.Encoded() + ".tar"
	f, err := os.Open(spooled(dir, d))
	if err == nil {
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return copyFile(t, name, info.Size(), f)
	}
	chain, err := e.findLayer(d)
	if err != nil {
		return err
	}
	size, err := e.layerSize(chain)
	if err != nil {
		return err
	}
	r, err := e.openLayer(chain)
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
