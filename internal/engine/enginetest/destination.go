package enginetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"migrate/internal/engine"
)

// arriving is a container on its way: described at the source, adapted to the destination, its undos collected.
type arriving struct {
	t     *testing.T
	b     *Bench
	c     *engine.Container
	h     *engine.Handles
	cp    engine.Checkpoint
	upper string

	ctx   context.Context // the destination's, with what Hold put into it
	names []string
	undos []engine.Undo
}

// step is one registering step.
type step struct {
	name string
	run  func(a *arriving) (engine.Undo, error)
}

// steps are the registering steps in their order, up to the one that needs a checkpoint.
var steps = []step{
	{"Hold", func(a *arriving) (engine.Undo, error) {
		ctx, undo, err := a.b.Dest.Hold(a.ctx, "enginetest-"+a.c.ID)
		if err == nil {
			a.ctx = ctx
		}
		return undo, err
	}},
	{"PrepareImage", func(a *arriving) (engine.Undo, error) {
		ingest(a.ctx, a.t, a.b, a.c.Image)
		return a.b.Dest.PrepareImage(a.ctx, a.c)
	}},
	{"Register", func(a *arriving) (engine.Undo, error) {
		return a.b.Dest.Register(a.ctx, a.c, a.c.Spec)
	}},
	{"PrepareRootfs", func(a *arriving) (engine.Undo, error) {
		upper, undo, err := a.b.Dest.PrepareRootfs(a.ctx, a.c)
		if err == nil {
			a.upper = upper
		}
		return undo, err
	}},
	{"SetupNetwork", func(a *arriving) (engine.Undo, error) {
		return a.b.Dest.SetupNetwork(a.ctx, a.c, nil)
	}},
}

var taskStep = step{"PrepareTask", func(a *arriving) (engine.Undo, error) {
	return a.b.Dest.PrepareTask(a.ctx, a.c, a.cp)
}}

// arrive describes a running container of the source to the destination.
func arrive(ctx context.Context, t *testing.T, b *Bench) *arriving {
	t.Helper()
	c, h := inspect(ctx, t, b, b.Start(t, engine.StatusRunning))
	c = roundTrip(t, c)
	b.Adapt(t, c)
	a := &arriving{t: t, b: b, c: c, h: h, ctx: ctx}
	t.Cleanup(func() { // for tests that give up half-way
		a.ctx = context.WithoutCancel(a.ctx)
		a.undo()
	})
	return a
}

// do runs a step and remembers its undo.
func (a *arriving) do(s step) {
	a.t.Helper()
	began := time.Now()
	undo, err := s.run(a)
	if err != nil {
		a.undo()
		a.t.Fatalf("%s: %v", s.name, err)
	}
	a.t.Logf("%s took %v", s.name, time.Since(began))
	a.names, a.undos = append(a.names, s.name), append(a.undos, undo)
}

// undo runs the undos, last first.
func (a *arriving) undo() {
	a.t.Helper()
	for i, undo := range slices.Backward(a.undos) {
		twice(a.ctx, a.t, a.names[i], undo)
	}
	a.names, a.undos = nil, nil
}

// ingest stores what of the image the destination lacks.
func ingest(ctx context.Context, t *testing.T, b *Bench, img engine.Image) {
	t.Helper()
	missing, err := b.Dest.MissingBlobs(ctx, img)
	if err != nil {
		t.Fatalf("MissingBlobs: %v", err)
	}
	for _, blob := range missing {
		if err := b.Dest.IngestBlob(ctx, blob, bytes.NewReader(readBlob(ctx, t, b, blob))); err != nil {
			t.Fatalf("IngestBlob: %v", err)
		}
	}
	if missing, err = b.Dest.MissingBlobs(ctx, img); err != nil || len(missing) > 0 {
		t.Fatalf("MissingBlobs after ingesting them: %v, %v", missing, err)
	}
}

func testIngestVerifies(ctx context.Context, t *testing.T, b *Bench) {
	a := arrive(ctx, t, b)
	a.do(steps[0])
	defer a.undo()
	missing, err := b.Dest.MissingBlobs(a.ctx, a.c.Image)
	if err != nil {
		t.Fatalf("MissingBlobs: %v", err)
	}
	if !isSubsequence(missing, a.c.Image.Blobs) {
		t.Errorf("MissingBlobs are not in the order of the image's: %v", missing)
	}
	if len(missing) == 0 {
		t.Skip("the destination has all blobs already")
	}
	blob := missing[0]
	data := readBlob(ctx, t, b, blob)
	flipped := bytes.Clone(data)
	flipped[0] ^= 1
	for name, content := range map[string][]byte{
		"changed": flipped, "cut": data[:len(data)-1], "empty": nil, "longer": append(bytes.Clone(data), 0),
	} {
		if err := b.Dest.IngestBlob(a.ctx, blob, bytes.NewReader(content)); err == nil {
			t.Errorf("IngestBlob took content that is %s", name)
		}
	}
	if err := b.Dest.IngestBlob(a.ctx, blob, bytes.NewReader(data)); err != nil {
		t.Errorf("IngestBlob after refusals: %v", err)
	}
	again := bytes.NewReader(data)
	if err := b.Dest.IngestBlob(a.ctx, blob, again); err != nil || again.Len() > 0 {
		t.Errorf("IngestBlob of a blob that is there: %v, %d bytes left unread", err, again.Len())
	}
}

func isSubsequence(part, whole []engine.Blob) bool {
	for _, b := range whole {
		if len(part) > 0 && part[0] == b {
			part = part[1:]
		}
	}
	return len(part) == 0
}

func testCheckFree(ctx context.Context, t *testing.T, b *Bench) {
	a := arrive(ctx, t, b)
	if err := b.Dest.CheckFree(ctx, a.c); err != nil {
		t.Fatalf("CheckFree: %v", err)
	}
	defer func() { a.undo() }()
	for _, s := range steps {
		a.do(s)
		taken := s.name == "PrepareRootfs" || s.name == "SetupNetwork" || s.name == "Register"
		if err := b.Dest.CheckFree(ctx, a.c); taken && !errors.Is(err, engine.ErrExists) {
			t.Errorf("CheckFree after %s: %v, want ErrExists", s.name, err)
		} else if !taken && err != nil {
			t.Errorf("CheckFree after %s: %v", s.name, err)
		}
	}
	for _, s := range steps {
		if s.name == "PrepareImage" || s.name == "SetupNetwork" && a.c.Network.Mode != engine.NetworkCNI || s.name == "PrepareRootfs" && a.c.SnapshotKey == "" {
			continue // these may be shared, or do nothing
		}
		if _, err := s.run(a); !errors.Is(err, engine.ErrExists) {
			t.Errorf("second %s: %v, want ErrExists", s.name, err)
		}
	}
	a.undo()
	if err := b.Dest.CheckFree(ctx, a.c); err != nil {
		t.Errorf("CheckFree after all undos: %v", err)
	}
}

// testUndoLeavesNothing breaks a migration off after each step in turn.
func testUndoLeavesNothing(ctx context.Context, t *testing.T, b *Bench) {
	for n := range steps {
		t.Run(steps[n].name, func(t *testing.T) {
			a := arrive(ctx, t, b)
			before := b.Left(t)
			for _, s := range steps[:n+1] {
				a.do(s)
			}
			a.undo()
			sameLeft(t, b, before)
		})
	}
}

func sameLeft(t *testing.T, b *Bench, before []string) {
	t.Helper()
	after := b.Left(t)
	for _, thing := range after {
		if !slices.Contains(before, thing) {
			t.Errorf("left behind: %s", thing)
		}
	}
	for _, thing := range before {
		if !slices.Contains(after, thing) {
			t.Errorf("taken by mistake: %s", thing)
		}
	}
}

func testNetworkIsLockedFirst(ctx context.Context, t *testing.T, b *Bench) {
	a := arrive(ctx, t, b)
	before := b.Left(t)
	if a.c.Network.Mode != engine.NetworkCNI {
		undo, err := b.Dest.SetupNetwork(a.ctx, a.c, func(string) error { return errors.New("there is nothing to lock") })
		if err != nil {
			t.Fatalf("SetupNetwork of a container without a namespace by path: %v", err)
		}
		if err := undo(a.ctx); err != nil {
			t.Errorf("undo: %v", err)
		}
		sameLeft(t, b, before)
		return
	}
	oops := errors.New("oops")
	called := ""
	_, err := b.Dest.SetupNetwork(ctx, a.c, func(netns string) error {
		called = netns
		return oops
	})
	if called != a.c.Network.NetNS {
		t.Errorf("lock was called with %q, want %q", called, a.c.Network.NetNS)
	}
	if !errors.Is(err, oops) {
		t.Errorf("SetupNetwork whose lock fails: %v, want that failure", err)
	}
	sameLeft(t, b, before)
}

// testRestore goes all the way, once with everything taken back after PrepareTask and once to the end.
func testRestore(ctx context.Context, t *testing.T, b *Bench) {
	if b.Checkpoint == nil {
		t.Skip("the bench makes no checkpoints")
	}
	t.Run("Undone", func(t *testing.T) {
		a := arrive(ctx, t, b)
		before := b.Left(t)
		a.restoreSteps()
		a.undo()
		sameLeft(t, b, before)
	})
	t.Run("Adopted", func(t *testing.T) {
		a := arrive(ctx, t, b)
		before := b.Left(t)
		a.restoreSteps()
		a.finish(ctx)
		sameLeft(t, b, append(before, b.imageLeft(t, before)...))
	})
}

// restoreSteps runs all steps up to PrepareTask. The checkpoint is taken once the RW layer has its place.
func (a *arriving) restoreSteps() {
	a.t.Helper()
	for _, s := range steps {
		if s.name == "SetupNetwork" {
			a.cp = a.b.Checkpoint(a.t, a.c, a.h, a.upper)
		}
		a.do(s)
	}
	a.do(taskStep)
}

// finish starts the container, adopts it, looks at it and takes it away.
func (a *arriving) finish(ctx context.Context) {
	a.t.Helper()
	began := time.Now()
	pid, err := a.b.Dest.StartTask(a.ctx, a.c)
	if err != nil {
		a.undo()
		a.t.Fatalf("StartTask: %v", err)
	}
	a.t.Logf("StartTask took %v", time.Since(began))
	if err := a.b.Dest.Adopt(a.ctx, a.c); err != nil {
		a.t.Errorf("Adopt: %v", err)
	}
	if err := a.undos[0](ctx); err != nil {
		a.t.Errorf("release of Hold: %v", err)
	}
	a.undos = nil // it is here to stay
	there, h, err := a.b.Dest.Inspect(ctx, a.c.ID)
	if err != nil {
		a.t.Errorf("Inspect after Adopt: %v", err)
	} else {
		sameContainer(a.t, there, a.c)
		if h.Pid != pid {
			a.t.Errorf("StartTask returned pid %d, the container has %d", pid, h.Pid)
		}
	}
	if err := a.b.Dest.Retire(ctx, a.c.ID, false); err != nil {
		a.t.Errorf("Retire: %v", err)
	}
}

// sameContainer compares what a move must keep.
func sameContainer(t *testing.T, got, want *engine.Container) {
	t.Helper()
	for field, pair := range map[string][2]any{
		"ID": {got.ID, want.ID}, "Labels": {got.Labels, want.Labels}, "Spec": {got.Spec, want.Spec},
		"Image.Name": {got.Image.Name, want.Image.Name}, "Image.Blobs": {got.Image.Blobs, want.Image.Blobs},
		"SnapshotKey": {got.SnapshotKey, want.SnapshotKey}, "Network": {got.Network, want.Network},
	} {
		a, _ := json.Marshal(pair[0])
		b, _ := json.Marshal(pair[1])
		if !bytes.Equal(a, b) {
			t.Errorf("%s at the destination is\n%s\nwant\n%s", field, a, b)
		}
	}
}

// imageLeft lists what is new since before: a container that ran here leaves its image.
func (b *Bench) imageLeft(t *testing.T, before []string) []string {
	t.Helper()
	var left []string
	for _, thing := range b.Left(t) {
		for _, kind := range []string{"image ", "blob ", "snapshot sha256:"} {
			if !slices.Contains(before, thing) && len(thing) > len(kind) && thing[:len(kind)] == kind {
				left = append(left, thing)
			}
		}
	}
	return left
}
