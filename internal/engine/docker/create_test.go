//go:build inhost

package docker

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"migrate/internal/engine"
)

// The daemon goes on making a container when the one who asked for it gives up, or dies: it is taken away all the same.
func TestGivenUpWhileCreating(t *testing.T) {
	b := newBench(t, "host")
	c, _, err := b.src.Inspect(t.Context(), b.start(t, engine.StatusRunning))
	check(t, err)
	prepare := func(id string) context.Context {
		ctx, drop, err := b.dst.Hold(t.Context(), id)
		check(t, err)
		t.Cleanup(func() { check(t, drop(context.Background())) })
		missing, err := b.dst.MissingBlobs(ctx, c.Image)
		check(t, err)
		for _, blob := range missing {
			r, err := b.src.OpenBlob(ctx, blob)
			check(t, err)
			check(t, b.dst.IngestBlob(ctx, blob, r))
			check(t, r.Close())
		}
		undo, err := b.dst.PrepareImage(ctx, c)
		check(t, err)
		t.Cleanup(func() { check(t, undo(context.Background())) })
		return ctx
	}
	t.Run("given up", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(prepare("given-up"), 5*time.Millisecond)
		defer cancel()
		if _, err := b.dst.Register(ctx, c, c.Spec); err == nil {
			t.Error("the container was made")
		}
		if _, err := b.dst.look(t.Context(), c.ID); err == nil {
			t.Error("the container is left")
		}
	})
	t.Run("died", func(t *testing.T) {
		ctx := prepare("died")
		_, err := b.dst.announceCreate(ctx)
		check(t, err)
		var s map[string]any
		check(t, json.Unmarshal(c.Spec, &s))
		s["annotations"] = map[string]string{criuAnnotation: "/run/died.conf"}
		spec, err := json.Marshal(s)
		check(t, err)
		late := make(chan error, 1)
		time.AfterFunc(300*time.Millisecond, func() {
			_, err := b.dst.Register(ctx, c, spec)
			late <- err
		})
		check(t, b.dst.Discard(t.Context(), c, "died"))
		check(t, <-late)
		for range 200 { // it may have been seen before the daemon was through with it
			if _, err = b.dst.look(t.Context(), c.ID); err != nil {
				break
			}
			time.Sleep(killPoll)
		}
		if err == nil {
			t.Error("the container is left")
		}
	})
}
