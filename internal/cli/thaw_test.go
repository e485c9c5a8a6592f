package cli

import (
	"errors"
	"io"
	"strings"
	"testing"

	"migrate/internal/engine"
	"migrate/internal/engine/containerd"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
)

func TestThaw(t *testing.T) {
	host := fake.NewWorld().Host("a")
	c := fake.Container("redis")
	c.Network = engine.Network{Mode: engine.NetworkNone}
	host.AddContainer(c, engine.StatusRunning)
	yes := func(string) error { return nil }
	ctx := t.Context()

	if err := thaw(ctx, host, "redis", yes, io.Discard); fail.Exit(err) != 3 || !strings.Contains(err.Error(), "not frozen") {
		t.Errorf("a running container: %v", err)
	}
	if err := thaw(ctx, host, "nope", yes, io.Discard); !errors.Is(err, engine.ErrNotFound) || fail.Exit(err) != 3 {
		t.Errorf("an unknown container: %v", err)
	}
	if err := host.Pause(ctx, "redis"); err != nil {
		t.Fatal(err)
	}
	no := errors.New("no")
	if err := thaw(ctx, host, "redis", func(string) error { return no }, io.Discard); !errors.Is(err, no) {
		t.Errorf("without a confirmation: %v", err)
	}
	if _, _, err := host.Inspect(ctx, "redis"); !errors.Is(err, engine.ErrPaused) {
		t.Errorf("without a confirmation it was thawed: %v", err)
	}
	_, unlock, err := host.Lock(ctx, "redis")
	if err != nil {
		t.Fatal(err)
	}
	if err := thaw(ctx, host, "redis", yes, io.Discard); !errors.Is(err, engine.ErrExists) {
		t.Errorf("while a migration is under way: %v", err)
	}
	if err := unlock(ctx); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	if err := thaw(ctx, host, "redis", yes, &said); err != nil {
		t.Fatal(err)
	}
	if _, _, err := host.Inspect(ctx, "redis"); err != nil || !strings.Contains(said.String(), "must never run at the destination") {
		t.Errorf("after the thaw: %v, %q", err, said.String())
	}
}

func TestSlots(t *testing.T) {
	slots := make(chan struct{}, 1)
	released := 0
	e := &slotEngine{fake.NewWorld().Host("a"), func() { released++ }}
	if err := e.Close(); err != nil || released != 1 {
		t.Errorf("close: %v, released %d times", err, released)
	}
	slots <- struct{}{}
	if _, err := openSlot(t.Context(), slots, recvOptions{}, containerd.Name, "default"); fail.Exit(err) != 4 {
		t.Errorf("no place is left: %v", err)
	}
	<-slots
	// an engine that cannot be opened gives its place back
	if _, err := openSlot(t.Context(), slots, recvOptions{}, containerd.Name, "default"); err == nil || len(slots) != 0 {
		t.Errorf("%v, %d places taken", err, len(slots))
	}
}
