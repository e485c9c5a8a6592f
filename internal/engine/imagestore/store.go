// Package imagestore is what engines share that keep images in containerd: how to find an image's blobs, to store those that a peer
// sends, to keep them from garbage collection until they are in use, and to unpack them.
//
// The caller's context, or the client, says in which containerd namespace; the context bounds every call.
package imagestore

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"

	"migrate/internal/engine"
)

// OwnerLabel marks what a migration made, by the id of its lease.
const OwnerLabel = "migrate/owner"

// holdLimit is when containerd lets go of what a migration registered, should nobody come to undo the hold.
const holdLimit = 24 * time.Hour

// abortLimit bounds what is done after a failure.
const abortLimit = 30 * time.Second

// Store is the images of one containerd.
type Store struct {
	client  *client.Client
	unpacks keyedMutex // by chain id
}

// New makes a Store of a connection, which stays the caller's.
func New(c *client.Client) *Store { return &Store{client: c} }

// LeaseID is what a migration's lease is called.
func LeaseID(id string) string { return "migrate-" + id }

// Hold keeps what is stored with a context of Held from garbage collection until Release. A second hold of the same migration is
// engine.ErrExists.
func (s *Store) Hold(ctx context.Context, id string) error {
	_, err := s.client.LeasesService().Create(ctx,
		leases.WithID(LeaseID(id)), leases.WithExpiration(holdLimit), leases.WithLabel(OwnerLabel, id))
	if errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("migration %s holds a lease: it is under way, or was broken off: %w", id, engine.ErrExists)
	} else if err != nil {
		return fmt.Errorf("hold content for migration %s: %w", id, err)
	}
	return nil
}

// Held is a context for what a migration stores.
func Held(ctx context.Context, id string) context.Context { return leases.WithLease(ctx, LeaseID(id)) }

// Holds says whether a migration has a lease.
func (s *Store) Holds(ctx context.Context, id string) (bool, error) {
	list, err := s.client.LeasesService().List(ctx, fmt.Sprintf("id==%q", LeaseID(id)))
	if err != nil {
		return false, fmt.Errorf("look up lease %s: %w", LeaseID(id), err)
	}
	return len(list) > 0, nil
}

// Release waits for the garbage collector, so that a failed migration has left nothing when its undos are through. It is idempotent.
func (s *Store) Release(ctx context.Context, id string) error {
	err := s.client.LeasesService().Delete(ctx, leases.Lease{ID: LeaseID(id)}, leases.SynchronousDelete)
	if err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("release lease %s: %w", LeaseID(id), err)
	}
	return nil
}

// Label makes each blob keep those it refers to from garbage collection, as a pull does.
func (s *Store) Label(ctx context.Context, p *Path) error {
	store := s.client.ContentStore()
	label := images.SetChildrenLabels(store, images.ChildrenHandler(store))
	for _, d := range append(p.Indexes, p.Manifest) {
		if _, err := label(ctx, d); err != nil {
			return fmt.Errorf("label %s: %w", d.Digest, err)
		}
	}
	return nil
}

// Unpack applies the layers. Several containers of one image arrive together: in this process they take turns, and
// containerd sorts out what other processes do.
func (s *Store) Unpack(ctx context.Context, snapshotter string, p *Path) error {
	defer s.unpacks.lock(p.ChainID)()
	// Naming the manifest itself, not the index, leaves containerd no choice of platform.
	image := client.NewImageWithPlatform(s.client, images.Image{Name: p.Manifest.Digest.String(), Target: p.Manifest}, platforms.All)
	if err := image.Unpack(ctx, snapshotter); err != nil {
		return err
	}
	if p.ChainID == "" {
		return nil
	}
	if _, err := s.client.SnapshotService(snapshotter).Stat(ctx, p.ChainID); err != nil {
		return fmt.Errorf("look up unpacked layers: %w", err)
	}
	return nil
}

// Root is where a snapshotter keeps file systems, "" when it does not tell.
func (s *Store) Root(ctx context.Context, snapshotter string) string {
	plugins, err := s.client.IntrospectionService().Plugins(ctx, "type==io.containerd.snapshotter.v1", "id=="+snapshotter)
	if err != nil {
		return ""
	}
	for _, p := range plugins.Plugins {
		if root := p.Exports["root"]; root != "" {
			return root
		}
	}
	return ""
}
