//go:build inhost

package containerd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
)

// TestImageArrivesTogether receives several containers of one image at once, and lets every other one fail.
func TestImageArrivesTogether(t *testing.T) {
	b := newBench(t, address(t), engine.NetworkNone)
	c, _, err := b.src.Inspect(t.Context(), b.start(t, engine.StatusRunning))
	check(t, err)
	before := b.left(t)
	var wg sync.WaitGroup
	for n := range 10 {
		mine := *c
		mine.Rename(fmt.Sprintf("together-%d", n))
		wg.Go(func() {
			if err := b.arriveAndLeave(&mine); err != nil {
				t.Errorf("container %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	for _, thing := range b.left(t) {
		if !slices.Contains(before, thing) {
			t.Errorf("left behind: %s", thing)
		}
	}
}

// arriveAndLeave gets as far as the root file system, waits a while, and takes it all back.
func (b *bench) arriveAndLeave(c *engine.Container) (err error) {
	ctx, release, err := b.dst.Hold(context.Background(), c.ID)
	if err != nil {
		return err
	}
	undos := []engine.Undo{release}
	defer func() {
		for i := len(undos) - 1; i >= 0; i-- {
			err = errors.Join(err, undos[i](ctx))
		}
	}()
	missing, err := b.dst.MissingBlobs(ctx, c.Image)
	if err != nil {
		return err
	}
	for _, blob := range missing {
		r, err := b.src.OpenBlob(ctx, blob)
		if err != nil {
			return err
		}
		err = b.dst.IngestBlob(ctx, blob, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	undo, err := b.dst.PrepareImage(ctx, c)
	if err != nil {
		return err
	}
	undos = append(undos, undo)
	if _, undo, err = b.dst.PrepareRootfs(ctx, c); err != nil {
		return err
	}
	undos = append(undos, undo)
	time.Sleep(50 * time.Millisecond)
	return nil
}

// TestBlobIsStoredOnceByMany stores one blob that no namespace has from several streams at once; the first to come
// breaks off.
func TestBlobIsStoredOnceByMany(t *testing.T) {
	b := newBench(t, address(t), engine.NetworkNone)
	data := make([]byte, 8<<20)
	rand.Read(data)
	blob := engine.Blob{Digest: digest.FromBytes(data).String(), MediaType: "application/octet-stream", Size: int64(len(data))}
	ctx, release, err := b.dst.Hold(t.Context(), "stored-once")
	check(t, err)
	defer func() { check(t, release(context.Background())) }()

	broken := io.MultiReader(bytes.NewReader(data[:1<<20]), &slowFailure{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.dst.IngestBlob(ctx, blob, broken); err == nil {
			t.Error("IngestBlob took a stream that broke off")
		}
	})
	time.Sleep(100 * time.Millisecond)
	for n := range 4 {
		wg.Go(func() {
			if err := b.dst.IngestBlob(ctx, blob, bytes.NewReader(data)); err != nil {
				t.Errorf("stream %d: %v", n, err)
			}
		})
	}
	wg.Wait()
	missing, err := b.dst.MissingBlobs(ctx, engine.Image{Name: "x", Target: blob, Blobs: []engine.Blob{blob}})
	if err != nil || len(missing) > 0 {
		t.Errorf("MissingBlobs = %v, %v", missing, err)
	}
}

type slowFailure struct{}

func (*slowFailure) Read([]byte) (int, error) {
	time.Sleep(500 * time.Millisecond)
	return 0, errors.New("link broke")
}

// TestHostileDescriptions never reach a path or the daemon.
func TestHostileDescriptions(t *testing.T) {
	good := func() *engine.Container {
		d := digest.FromString("x").String()
		return &engine.Container{
			ID: "web", Snapshotter: "overlayfs", SnapshotKey: "web", Runtime: "io.containerd.runc.v2",
			Image:   engine.Image{Name: "x", Target: engine.Blob{Digest: d}, ChainID: d},
			Network: engine.Network{Mode: engine.NetworkCNI, NetNS: "/run/netns/web"}, Spec: json.RawMessage("{}"),
		}
	}
	if err := validContainer(good()); err != nil {
		t.Fatalf("good description: %v", err)
	}
	for name, spoil := range map[string]func(*engine.Container){
		"id":                func(c *engine.Container) { c.ID = "../web" },
		"empty id":          func(c *engine.Container) { c.ID = "" },
		"snapshot key":      func(c *engine.Container) { c.SnapshotKey = "a/b" },
		"snapshotter":       func(c *engine.Container) { c.Snapshotter = "over/lay" },
		"image":             func(c *engine.Container) { c.Image.Name = "" },
		"target":            func(c *engine.Container) { c.Image.Target.Digest = "sha256:../../x" },
		"blob":              func(c *engine.Container) { c.Image.Blobs = []engine.Blob{{Digest: "x"}} },
		"negative size":     func(c *engine.Container) { c.Image.Blobs = []engine.Blob{{Digest: c.Image.ChainID, Size: -1}} },
		"mode":              func(c *engine.Container) { c.Network.Mode = "macvlan" },
		"namespace outside": func(c *engine.Container) { c.Network.NetNS = "/etc/passwd" },
		"namespace dots":    func(c *engine.Container) { c.Network.NetNS = "/run/netns/../../etc/x" },
		"namespace deeper":  func(c *engine.Container) { c.Network.NetNS = "/run/netns/a/b" },
		"namespace hidden":  func(c *engine.Container) { c.Network.NetNS = "/run/netns/.x" },
		"namespace dir":     func(c *engine.Container) { c.Network.NetNS = "/run/netns/" },
	} {
		c := good()
		spoil(c)
		if validContainer(c) == nil {
			t.Errorf("a bad %s was taken", name)
		}
	}
}
