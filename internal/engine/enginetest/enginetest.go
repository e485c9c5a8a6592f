// Package enginetest is the suite that every engine passes.
//
//	func TestConformance(t *testing.T) {
//		enginetest.Run(t, func(t *testing.T) *enginetest.Bench { … })
//	}
//
// A Bench is made anew for each test. The suite moves containers from its Source to its Destination, which may be one
// host: Adapt then gives the description what cannot be had twice there.
package enginetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"testing"
	"time"

	"migrate/internal/engine"
)

// testLimit bounds each test.
const testLimit = 2 * time.Minute

// Bench is what a test works with.
type Bench struct {
	Source engine.Source
	Dest   engine.Engine

	// Start makes a container at the source and brings it into a state. It is removed when the test ends.
	Start func(t *testing.T, s engine.Status) (id string)
	// Adapt changes a description so that Dest can take it: a free id, addresses and so on.
	Adapt func(t *testing.T, c *engine.Container)
	// Left lists, in a stable order, everything at Dest that a migration could leave behind.
	Left func(t *testing.T) []string
	// Checkpoint makes one of the source's container. nil leaves out the tests that restore.
	Checkpoint func(t *testing.T, c *engine.Container, h *engine.Handles, upper string) engine.Checkpoint
}

// Run runs the suite.
func Run(t *testing.T, factory func(t *testing.T) *Bench) {
	for _, test := range []struct {
		name string
		run  func(ctx context.Context, t *testing.T, b *Bench)
	}{
		{"Info", testInfo},
		{"InspectRefuses", testInspectRefuses},
		{"InspectDescribes", testInspectDescribes},
		{"OpenBlob", testOpenBlob},
		{"Lock", testLock},
		{"Shield", testShield},
		{"PauseAndResume", testPauseAndResume},
		{"Retire", testRetire},
		{"IngestVerifies", testIngestVerifies},
		{"CheckFree", testCheckFree},
		{"UndoLeavesNothing", testUndoLeavesNothing},
		{"NetworkIsLockedFirst", testNetworkIsLockedFirst},
		{"Restore", testRestore},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), testLimit)
			defer cancel()
			test.run(ctx, t, factory(t))
		})
	}
}

func testInfo(ctx context.Context, t *testing.T, b *Bench) {
	info, err := b.Source.Info(ctx)
	if err != nil {
		t.Fatalf("Info: %v", err)
	}
	for field, value := range map[string]string{
		"Name": info.Name, "Version": info.Version, "Runtime": info.Runtime, "CRIU": info.CRIU,
		"Snapshotter": info.Snapshotter, "Kernel": info.Kernel, "Arch": info.Arch,
	} {
		if value == "" {
			t.Errorf("Info has no %s", field)
		}
	}
}

func testInspectRefuses(ctx context.Context, t *testing.T, b *Bench) {
	if _, _, err := b.Source.Inspect(ctx, "no-such-container"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("Inspect of an unknown container: %v, want ErrNotFound", err)
	}
	if b.Source.Has(ctx, "no-such-container") {
		t.Error("the engine says that it has an unknown container")
	}
	for status, want := range map[engine.Status]error{
		engine.StatusStopped: engine.ErrNotRunning,
		engine.StatusCreated: engine.ErrNotRunning,
		engine.StatusPaused:  engine.ErrPaused,
	} {
		id := b.Start(t, status)
		if _, _, err := b.Source.Inspect(ctx, id); !errors.Is(err, want) {
			t.Errorf("Inspect of a container that is %s: %v, want %v", status, err, want)
		}
		if !b.Source.Has(ctx, id) {
			t.Errorf("the engine says that it does not have a container that is %s", status)
		}
	}
}

func testInspectDescribes(ctx context.Context, t *testing.T, b *Bench) {
	id := b.Start(t, engine.StatusRunning)
	c, h := inspect(ctx, t, b, id)
	if c.ID != id || !json.Valid(c.Spec) {
		t.Errorf("description is incomplete: %+v", c)
	}
	if len(c.Image.Blobs) == 0 || c.Image.Blobs[0].Digest != c.Image.Target.Digest {
		t.Errorf("blobs of %q do not begin with its target", c.Image.Name)
	}
	if h.Pid <= 0 || !slices.Contains(h.Pids, h.Pid) || h.Upper == "" || h.RuntimeID == "" {
		t.Errorf("handles are incomplete: %+v", h)
	}
	t.Logf("network is %+v", c.Network)
	before, after := encode(t, c), encode(t, roundTrip(t, c))
	if !bytes.Equal(before, after) {
		t.Errorf("description does not survive JSON:\n%s\n%s", before, after)
	}
}

// roundTrip is what the description is on the other host.
func roundTrip(t *testing.T, c *engine.Container) *engine.Container {
	t.Helper()
	var out engine.Container
	if err := json.Unmarshal(encode(t, c), &out); err != nil {
		t.Fatalf("decode description: %v", err)
	}
	return &out
}

func encode(t *testing.T, c *engine.Container) []byte {
	t.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatalf("encode description: %v", err)
	}
	return data
}

func inspect(ctx context.Context, t *testing.T, b *Bench, id string) (*engine.Container, *engine.Handles) {
	t.Helper()
	began := time.Now()
	c, h, err := b.Source.Inspect(ctx, id)
	if err != nil {
		t.Fatalf("Inspect: %v", err)
	}
	t.Logf("Inspect took %v", time.Since(began))
	return c, h
}

func testOpenBlob(ctx context.Context, t *testing.T, b *Bench) {
	c, _ := inspect(ctx, t, b, b.Start(t, engine.StatusRunning))
	for _, blob := range c.Image.Blobs {
		data := readBlob(ctx, t, b, blob)
		if int64(len(data)) != blob.Size {
			t.Errorf("blob %s has %d bytes, want %d", blob.Digest, len(data), blob.Size)
		}
		if got := fmt.Sprintf("sha256:%x", sha256.Sum256(data)); got != blob.Digest {
			t.Errorf("blob %s has the content of %s", blob.Digest, got)
		}
	}
	if r, err := b.Source.OpenBlob(ctx, engine.Blob{Digest: "sha256:" + fmt.Sprintf("%064x", 1), Size: 1}); err == nil {
		r.Close()
		t.Error("OpenBlob opened a blob that is not there")
	}
}

func readBlob(ctx context.Context, t *testing.T, b *Bench, blob engine.Blob) []byte {
	t.Helper()
	r, err := b.Source.OpenBlob(ctx, blob)
	if err != nil {
		t.Fatalf("OpenBlob: %v", err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read blob %s: %v", blob.Digest, err)
	}
	return data
}

func testLock(ctx context.Context, t *testing.T, b *Bench) {
	id := b.Start(t, engine.StatusRunning)
	_, unlock, err := b.Source.Lock(ctx, id)
	if err != nil {
		t.Fatalf("Lock: %v", err)
	}
	if _, _, err := b.Source.Lock(ctx, id); !errors.Is(err, engine.ErrExists) {
		t.Errorf("second Lock: %v, want ErrExists", err)
	}
	twice(ctx, t, "Lock", unlock)
	_, unlock, err = b.Source.Lock(ctx, id)
	if err != nil {
		t.Fatalf("Lock after unlock: %v", err)
	}
	twice(ctx, t, "Lock", unlock)
}

// twice runs an undo as often as an impatient caller might.
func twice(ctx context.Context, t *testing.T, step string, undo engine.Undo) {
	t.Helper()
	for _, time := range []string{"first", "second"} {
		if err := undo(ctx); err != nil {
			t.Errorf("%s undo of %s: %v", time, step, err)
		}
	}
}

// testShield: nobody but the engine's own minder sees that a container is hidden from it.
func testShield(ctx context.Context, t *testing.T, b *Bench) {
	id := b.Start(t, engine.StatusRunning)
	before, _ := inspect(ctx, t, b, id)
	undo, err := b.Source.Shield(ctx, id)
	if err != nil {
		t.Fatalf("Shield: %v", err)
	}
	if shielded, _ := inspect(ctx, t, b, id); !maps.Equal(shielded.Labels, before.Labels) {
		t.Errorf("labels of a hidden container are %v, and were %v", shielded.Labels, before.Labels)
	}
	if err := errors.Join(b.Source.Pause(ctx, id), b.Source.Resume(ctx, id)); err != nil {
		t.Error(err)
	}
	twice(ctx, t, "Shield", undo)
	if _, err := b.Source.Shield(ctx, "no-such-container"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("Shield of nothing: %v, want ErrNotFound", err)
	}
}

func testPauseAndResume(ctx context.Context, t *testing.T, b *Bench) {
	id := b.Start(t, engine.StatusRunning)
	for _, step := range []struct {
		name string
		run  func(context.Context, string) error
		want error
	}{
		{"Resume of a running container", b.Source.Resume, nil},
		{"Pause", b.Source.Pause, engine.ErrPaused},
		{"second Pause", b.Source.Pause, engine.ErrPaused},
		{"Resume", b.Source.Resume, nil},
		{"second Resume", b.Source.Resume, nil},
	} {
		if err := step.run(ctx, id); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if _, _, err := b.Source.Inspect(ctx, id); !errors.Is(err, step.want) {
			t.Errorf("Inspect after %s: %v, want %v", step.name, err, step.want)
		}
	}
	if err := b.Source.Pause(ctx, "no-such-container"); !errors.Is(err, engine.ErrNotFound) {
		t.Errorf("Pause of an unknown container: %v, want ErrNotFound", err)
	}
	if err := b.Source.Pause(ctx, b.Start(t, engine.StatusStopped)); !errors.Is(err, engine.ErrNotRunning) {
		t.Errorf("Pause of a stopped container: %v, want ErrNotRunning", err)
	}
}

func testRetire(ctx context.Context, t *testing.T, b *Bench) {
	kept := b.Start(t, engine.StatusRunning)
	if err := b.Source.Retire(ctx, kept, true); err != nil {
		t.Fatalf("Retire, kept: %v", err)
	}
	if _, _, err := b.Source.Inspect(ctx, kept); !errors.Is(err, engine.ErrNotRunning) {
		t.Errorf("Inspect after Retire, kept: %v, want ErrNotRunning", err)
	}
	for _, status := range []engine.Status{engine.StatusRunning, engine.StatusPaused, engine.StatusStopped} {
		id := b.Start(t, status)
		for _, time := range []string{"first", "second"} {
			if err := b.Source.Retire(ctx, id, false); err != nil {
				t.Errorf("%s Retire of a container that was %s: %v", time, status, err)
			}
		}
		if _, _, err := b.Source.Inspect(ctx, id); !errors.Is(err, engine.ErrNotFound) {
			t.Errorf("Inspect after Retire: %v, want ErrNotFound", err)
		}
	}
}
