package restore_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/proto"
	"migrate/restore"
)

// dead is what an agent that died has left: a note, an outcome, and a container in some state.
type dead struct {
	opt  restore.Options
	dst  *fake.Engine
	w    *fake.World
	note string

	volume string // a directory that came with the container
}

func leaveBehind(t *testing.T, outcome string, task bool, s engine.Status) *dead {
	t.Helper()
	dir := t.TempDir()
	d := &dead{w: fake.NewWorld(), note: filepath.Join(dir, "incoming", testID+".json")}
	d.dst = d.w.Host("dst")
	c := fake.Container("web")
	c.Network = engine.Network{Mode: engine.NetworkNone}
	if _, _, err := d.dst.Hold(t.Context(), testID); err != nil {
		t.Fatal(err)
	}
	if task {
		d.dst.AddContainer(c, s)
	}
	o := openOutcomes(t, filepath.Join(dir, "outcomes"))
	var err error
	if outcome != "" {
		err = o.Begin(testID)
	}
	switch outcome {
	case proto.OutcomeCommitted:
		err = errors.Join(err, o.Commit(testID, proto.CommittedMsg{Pid: 1}, ""))
	case proto.OutcomeAborted:
		err = errors.Join(err, o.Abort(testID))
	}
	conf := filepath.Join(dir, testID+".conf")
	d.volume = filepath.Join(dir, "srv", "volume")
	place := map[string]any{"path": d.volume, "type": "directory", "work": d.volume, "made": []string{filepath.Dir(d.volume), d.volume}, "begun": true}
	err = errors.Join(err, os.MkdirAll(d.volume, 0o755), os.WriteFile(filepath.Join(d.volume, "f"), []byte("came"), 0o600))
	note, jerr := json.Marshal(map[string]any{
		"id": testID, "container": c, "stage": filepath.Join(dir, "run", testID), "config": conf, "places": []any{place},
	})
	err = errors.Join(err, jerr, os.Mkdir(filepath.Dir(d.note), 0o700), os.WriteFile(d.note, note, 0o600), os.WriteFile(conf, nil, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	d.opt = restore.Options{
		Outcomes: o, Incoming: filepath.Dir(d.note), RunDir: filepath.Join(dir, "run"),
		OpenEngine: func(context.Context, string, string) (engine.Engine, error) { return d.dst, nil },
	}
	return d
}

func TestSweep(t *testing.T) {
	oops := errors.New("injected: the engine does not answer")
	for _, c := range []struct {
		name    string
		outcome string
		task    bool
		status  engine.Status
		fault   error // of Inspect
		kept    bool
		noted   bool // the note stays for the next Sweep
		want    string
	}{
		{"before GO, nothing registered", "", false, "", nil, false, false, proto.OutcomeAborted},
		{"before GO, held", "", true, engine.StatusStopped, nil, false, false, proto.OutcomeAborted},
		{"aborted, not cleaned up", proto.OutcomeAborted, true, engine.StatusStopped, nil, false, false, proto.OutcomeAborted},
		{"after GO, runs", proto.OutcomePending, true, engine.StatusRunning, nil, true, false, proto.OutcomeCommitted},
		{"after GO, paused since", proto.OutcomePending, true, engine.StatusPaused, nil, true, false, proto.OutcomeCommitted},
		{"after GO, does not run", proto.OutcomePending, true, engine.StatusStopped, nil, false, false, proto.OutcomeAborted},
		{"after GO, gone", proto.OutcomePending, false, "", nil, false, false, proto.OutcomeAborted},
		{"after GO, engine does not answer", proto.OutcomePending, true, engine.StatusRunning, oops, true, true, proto.OutcomePending},
		{"committed", proto.OutcomeCommitted, true, engine.StatusRunning, nil, true, false, proto.OutcomeCommitted},
		{"committed, stopped since", proto.OutcomeCommitted, true, engine.StatusStopped, nil, true, false, proto.OutcomeCommitted},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := leaveBehind(t, c.outcome, c.task, c.status)
			d.dst.Fault = func(op string, _ int) error {
				if op == fake.OpInspect {
					return c.fault
				}
				return nil
			}
			if err := restore.Sweep(t.Context(), d.opt); err != nil {
				t.Error(err)
			}
			if kept := slices.Contains(d.dst.Left(), "container web"); kept != c.kept {
				t.Errorf("kept: %v, want %v", kept, c.kept)
			}
			// what came of a volume stays with its container, and goes with it
			if _, err := os.Stat(filepath.Join(d.volume, "f")); (err == nil) != c.kept {
				t.Errorf("the volume is there: %v, want %v", err == nil, c.kept)
			}
			if _, err := os.Stat(filepath.Dir(d.volume)); (err == nil) != c.kept {
				t.Errorf("the directory above the volume is there: %v, want %v", err == nil, c.kept)
			}
			if _, err := os.Stat(d.note); (err == nil) != c.noted {
				t.Errorf("the note is there: %v", err == nil)
			}
			if held := slices.Contains(d.dst.Left(), "lease "+testID); held != c.noted {
				t.Errorf("the lease is there: %v", held)
			}
			wantOutcome(t, d.opt.Outcomes, testID, c.want)
		})
	}
}

// Files that were kept for a container go when the engine does not know it any more.
func TestSweepRemovesFilesOfContainersThatAreGone(t *testing.T) {
	d := leaveBehind(t, proto.OutcomeCommitted, true, engine.StatusRunning)
	d.opt.Files = t.TempDir()
	ns := fake.Container("web").Namespace
	for _, path := range []string{ns + "/web/hosts", ns + "/gone/hosts", ns + "/coming/hosts"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(d.opt.Files, filepath.Dir(path)), 0o755), os.WriteFile(filepath.Join(d.opt.Files, path), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	note := filepath.Join(d.opt.Incoming, strings.Repeat("ab", 16)+".json")
	b, err := json.Marshal(map[string]any{"container": fake.Container("coming")})
	if err == nil {
		err = os.WriteFile(note, append(b, "ains of another"...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	living, err := os.Open(note)
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	if err := unix.Flock(int(living.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := restore.Sweep(t.Context(), d.opt); err != nil {
		t.Error(err)
	}
	for id, want := range map[string]bool{"web": true, "gone": false, "coming": true} {
		if _, err := os.Stat(filepath.Join(d.opt.Files, ns, id, "hosts")); (err == nil) != want {
			t.Errorf("files of %s are there: %v, want %v", id, err == nil, want)
		}
	}
}

// What a living agent is taking in is its own business.
func TestSweepLeavesTheLivingAlone(t *testing.T) {
	d := leaveBehind(t, "", true, engine.StatusStopped)
	f, err := os.Open(d.note)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := restore.Sweep(t.Context(), d.opt); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.note); err != nil || !slices.Contains(d.dst.Left(), "container web") {
		t.Errorf("taken away from under it: %v, %v", err, d.dst.Left())
	}
}

// A note that was not finished belongs to an agent that had registered nothing yet.
func TestSweepUnfinishedNote(t *testing.T) {
	d := leaveBehind(t, "", false, "")
	if err := os.WriteFile(d.note, []byte(`{"id":"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restore.Sweep(t.Context(), d.opt); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(d.note); err == nil {
		t.Error("the note is still there")
	}
}
