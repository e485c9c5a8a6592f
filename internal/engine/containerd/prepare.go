package containerd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
	"migrate/internal/engine/local"
)

// PrepareImage implements engine.Engine. It may change c.Image.Name to the name that the image has on this host.
func (e *Engine) PrepareImage(ctx context.Context, c *engine.Container) (engine.Undo, error) {
	if err := validContainer(c); err != nil {
		return nil, err
	}
	ctx, cancel := e.call(ctx, unpackLimit)
	defer cancel()
	p, err := e.images.Find(ctx, imagestore.Descriptor(c.Image.Target), c.Image.ChainID)
	if err != nil {
		return nil, fmt.Errorf("prepare image %q: %w", c.Image.Name, err)
	}
	if err := e.images.Label(ctx, p); err != nil {
		return nil, fmt.Errorf("prepare image %q: %w", c.Image.Name, err)
	}
	name, undo, err := e.nameImage(ctx, c.Image)
	if err != nil {
		return nil, fmt.Errorf("prepare image %q: %w", c.Image.Name, err)
	}
	if err := e.images.Unpack(ctx, c.Snapshotter, p); err != nil {
		err = fmt.Errorf("unpack image %q: %w", c.Image.Name, err)
		return nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
	}
	c.Image.Name = name
	return undo, nil
}

// nameImage finds or makes the image's record and says what it is called.
func (e *Engine) nameImage(ctx context.Context, img engine.Image) (string, engine.Undo, error) {
	store := e.client.ImageService()
	// a container that comes back finds its image under the name it left with
	base, _, _ := strings.Cut(img.Name, "@")
	if have, err := store.Get(ctx, base); err == nil && have.Target.Digest.String() == img.Target.Digest {
		return base, local.Nothing, nil
	}
	have, err := store.Get(ctx, img.Name)
	switch {
	case err == nil && have.Target.Digest.String() == img.Target.Digest:
		return img.Name, local.Nothing, nil
	case err != nil && !errdefs.IsNotFound(err):
		return "", nil, fmt.Errorf("look up image: %w", err)
	}
	name := img.Name
	if err == nil || !e.opts.TagImages {
		name = digestName(img)
	}
	made, err := e.createImage(ctx, name, img)
	if err != nil || !made {
		return name, local.Nothing, err
	}
	return name, local.Once(e.removeImage(ctx, name)), nil
}

// digestName is a name by which nobody asks for anything but this very content.
func digestName(img engine.Image) string {
	base, _, _ := strings.Cut(img.Name, "@")
	return base + "@" + img.Target.Digest
}

// createImage returns false when the same image was there already.
func (e *Engine) createImage(ctx context.Context, name string, img engine.Image) (made bool, err error) {
	store := e.client.ImageService()
	labels := storeLabels(img.Labels)
	if lease, ok := leases.FromContext(ctx); ok {
		labels[imagestore.OwnerLabel] = lease
	}
	_, err = store.Create(ctx, images.Image{Name: name, Target: imagestore.Descriptor(img.Target), Labels: labels})
	if err == nil {
		return true, nil
	}
	if !errdefs.IsAlreadyExists(err) {
		return false, fmt.Errorf("register image %q: %w", name, err)
	}
	have, err := store.Get(ctx, name)
	if err != nil {
		return false, fmt.Errorf("look up image %q: %w", name, err)
	}
	if have.Target.Digest.String() != img.Target.Digest {
		return false, fmt.Errorf("image %q is another on this host (%s): remove it: %w", name, have.Target.Digest, engine.ErrExists)
	}
	return false, nil
}

// removeImage takes back a record that is still this migration's and that no container uses.
func (e *Engine) removeImage(made context.Context, name string) engine.Undo {
	owner, _ := leases.FromContext(made)
	return func(ctx context.Context) error {
		ctx, cancel := e.call(ctx, callLimit)
		defer cancel()
		store := e.client.ImageService()
		have, err := store.Get(ctx, name)
		if errdefs.IsNotFound(err) || err == nil && have.Labels[imagestore.OwnerLabel] != owner {
			return nil
		} else if err != nil {
			return fmt.Errorf("look up image %q: %w", name, err)
		}
		users, err := e.client.ContainerService().List(ctx, fmt.Sprintf("image==%q", name))
		if err != nil {
			return fmt.Errorf("look up users of image %q: %w", name, err)
		}
		if len(users) > 0 {
			return nil
		}
		if err := store.Delete(ctx, name); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %q: %w", name, err)
		}
		return nil
	}
}

// PrepareRootfs implements engine.Engine.
func (e *Engine) PrepareRootfs(ctx context.Context, c *engine.Container) (string, engine.Undo, error) {
	if err := validContainer(c); err != nil {
		return "", nil, err
	}
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	mounts, err := e.snapshotter(c.Snapshotter).Prepare(ctx, c.SnapshotKey, c.Image.ChainID, snapshots.WithLabels(storeLabels(c.SnapLabels)))
	if errdefs.IsAlreadyExists(err) {
		return "", nil, fmt.Errorf("snapshot %q: %w", c.SnapshotKey, engine.ErrExists)
	} else if err != nil {
		return "", nil, fmt.Errorf("prepare snapshot %q: %w", c.SnapshotKey, err)
	}
	undo := local.Once(e.dropSnapshot(c.Snapshotter, c.SnapshotKey))
	upper, err := imagestore.UpperDir(c.Snapshotter, mounts)
	if err == nil && c.Snapshotter == imagestore.Native {
		err = emptied(upper) // the source sends the image's files with the container's
	}
	if err != nil {
		return "", nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
	}
	return upper, undo, nil
}

func (e *Engine) dropSnapshot(snapshotter, key string) engine.Undo {
	return func(ctx context.Context) error {
		ctx, cancel := e.call(ctx, callLimit)
		defer cancel()
		return removeSnapshot(ctx, e.snapshotter(snapshotter), key)
	}
}
