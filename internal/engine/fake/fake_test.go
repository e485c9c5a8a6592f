package fake_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"migrate/internal/engine"
	"migrate/internal/engine/enginetest"
	"migrate/internal/engine/fake"
)

func TestConformance(t *testing.T) {
	enginetest.Run(t, func(*testing.T) *enginetest.Bench {
		world := fake.NewWorld()
		src, dst := world.Host("src"), world.Host("dst")
		made := 0
		return &enginetest.Bench{
			Source: src, Dest: dst,
			Start: func(_ *testing.T, s engine.Status) string {
				made++
				c := fake.Container(fmt.Sprintf("c%d", made))
				src.AddContainer(c, s)
				return c.ID
			},
			Adapt: func(*testing.T, *engine.Container) {},
			Left:  func(*testing.T) []string { return dst.Left() },
			Checkpoint: func(t *testing.T, c *engine.Container, _ *engine.Handles, _ string) engine.Checkpoint {
				if err := src.Pause(t.Context(), c.ID); err != nil {
					t.Fatalf("Pause: %v", err)
				}
				return engine.Checkpoint{ImagePath: "/nowhere", Stdio: c.Stdio}
			},
		}
	})
}

func TestFaultIsReturnedAndWrittenDown(t *testing.T) {
	world := fake.NewWorld()
	host := world.Host("a")
	host.AddContainer(fake.Container("web"), engine.StatusRunning)
	oops := errors.New("oops")
	host.Fault = func(op string, n int) error {
		if op == fake.OpPause && n == 2 {
			return oops
		}
		return nil
	}
	for i, want := range []error{nil, oops, nil} {
		if err := host.Pause(t.Context(), "web"); !errors.Is(err, want) {
			t.Errorf("Pause %d: %v, want %v", i+1, err, want)
		}
	}
	var pauses []error
	for _, ev := range world.History() {
		if ev.Op == fake.OpPause {
			pauses = append(pauses, ev.Err)
		}
	}
	if len(pauses) != 3 || !errors.Is(pauses[1], oops) {
		t.Errorf("history has the pauses %v", pauses)
	}
}

func TestWorldNoticesTwoOwners(t *testing.T) {
	world := fake.NewWorld()
	src, dst := world.Host("src"), world.Host("dst")
	c := fake.Container("web")
	src.AddContainer(c, engine.StatusRunning)
	startAt(t, dst, &c)
	if err := world.Check(); err == nil {
		t.Errorf("nothing noticed; history: %v", world.History())
	}
	if got := world.Runs("web"); len(got) != 2 {
		t.Errorf("web runs on %v, want both", got)
	}
}

func TestHeldRestoreDoesNotRun(t *testing.T) {
	world := fake.NewWorld()
	dst := world.Host("dst")
	aborted := errors.New("aborted")
	dst.HoldRestore = func(context.Context, string) error {
		if runs := world.Runs("web"); len(runs) != 0 {
			t.Errorf("web runs on %v while it is held", runs)
		}
		return aborted
	}
	c := fake.Container("web")
	prepareAt(t, dst, &c)
	if _, err := dst.StartTask(t.Context(), &c); !errors.Is(err, aborted) {
		t.Errorf("StartTask: %v, want %v", err, aborted)
	}
	if runs := world.Runs("web"); len(runs) != 0 {
		t.Errorf("web runs on %v after its restore was aborted", runs)
	}
}

func prepareAt(t *testing.T, host *fake.Engine, c *engine.Container) {
	t.Helper()
	if _, err := host.Register(t.Context(), c, c.Spec); err != nil {
		t.Fatalf("Register: %v", err)
	}
	if _, err := host.PrepareTask(t.Context(), c, engine.Checkpoint{}); err != nil {
		t.Fatalf("PrepareTask: %v", err)
	}
}

func startAt(t *testing.T, host *fake.Engine, c *engine.Container) {
	t.Helper()
	prepareAt(t, host, c)
	if _, err := host.StartTask(t.Context(), c); err != nil {
		t.Fatalf("StartTask: %v", err)
	}
}
