package restore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/restore"
)

func openOutcomes(t *testing.T, dir string) *restore.Outcomes {
	t.Helper()
	o, err := restore.OpenOutcomes(dir)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func wantOutcome(t *testing.T, o *restore.Outcomes, id, want string) proto.OutcomeMsg {
	t.Helper()
	msg, err := o.Ask(id)
	if err != nil || msg.Result != want || msg.ID != id {
		t.Errorf("outcome is %+v, %v; want %s", msg, err, want)
	}
	return msg
}

func TestOutcomeCommitted(t *testing.T) {
	dir := t.TempDir()
	o := openOutcomes(t, dir)
	if err := o.Known(testID); err != nil {
		t.Fatal(err)
	}
	if err := o.Begin(testID); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, o, testID, proto.OutcomePending)
	if err := o.Commit(testID, proto.CommittedMsg{Pid: 7}, ""); err != nil {
		t.Fatal(err)
	}
	// another process sees the same
	if msg := wantOutcome(t, openOutcomes(t, dir), testID, proto.OutcomeCommitted); msg.Commit.Pid != 7 {
		t.Errorf("pid %d", msg.Commit.Pid)
	}
	if o.Known(testID) == nil || o.Begin(testID) == nil {
		t.Error("a migration was begun twice")
	}
	wantOutcome(t, o, testID, proto.OutcomeCommitted)
}

func TestOutcomeAborted(t *testing.T) {
	o := openOutcomes(t, t.TempDir())
	if err := o.Begin(testID); err != nil {
		t.Fatal(err)
	}
	if err := o.Abort(testID); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, o, testID, proto.OutcomeAborted)
}

func TestTombstoneRefusesLateGo(t *testing.T) {
	dir := t.TempDir()
	o := openOutcomes(t, dir)
	wantOutcome(t, o, testID, proto.OutcomeAborted)
	var f *fail.Fault
	if err := openOutcomes(t, dir).Begin(testID); !errors.As(err, &f) || f.Code != fail.Refused {
		t.Errorf("GO after a tombstone: %v", err)
	}
	wantOutcome(t, o, testID, proto.OutcomeAborted)
}

// A process that died while it wrote leaves nothing that counts.
func TestOutcomeLeftovers(t *testing.T) {
	dir := t.TempDir()
	o := openOutcomes(t, dir)
	for _, name := range []string{testID + ".json.new", ".new-123"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(`{"id":"`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.Known(testID); err != nil {
		t.Fatal(err)
	}
	if err := o.Begin(testID); err != nil {
		t.Fatal(err)
	}
	wantOutcome(t, o, testID, proto.OutcomePending)
}

func TestOutcomeThatCannotBeReadIsNoTombstone(t *testing.T) {
	dir := t.TempDir()
	o := openOutcomes(t, dir)
	if err := os.WriteFile(filepath.Join(dir, testID+".json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if msg, err := o.Ask(testID); err == nil {
		t.Errorf("answered %+v", msg)
	}
	if o.Begin(testID) == nil || o.Known(testID) == nil {
		t.Error("a migration with an unreadable record was begun")
	}
}

func TestOutcomeIsOneRefusalEach(t *testing.T) {
	o := openOutcomes(t, t.TempDir())
	wantOutcome(t, o, testID, proto.OutcomeAborted)
	var a, b *fail.Fault
	if !errors.As(o.Begin(testID), &a) || !errors.As(o.Known(testID), &b) {
		t.Fatal("not refused")
	}
	a.Log = "/of/this/migration"
	if b.Log != "" {
		t.Error("two migrations share one error value")
	}
}

// GO and the question may come at once, in two processes: never does one go ahead and the other hear "aborted".
func TestBeginAgainstAsk(t *testing.T) {
	dir := t.TempDir()
	for i := range 300 {
		id := fmt.Sprintf("%032x", i)
		var begin, ask error
		var told proto.OutcomeMsg
		var wg sync.WaitGroup
		start := make(chan struct{})
		begins, asks := openOutcomes(t, dir), openOutcomes(t, dir)
		wg.Go(func() { <-start; begin = begins.Begin(id) })
		wg.Go(func() { <-start; told, ask = asks.Ask(id) })
		close(start)
		wg.Wait()
		if ask != nil {
			t.Fatal(ask)
		}
		if begin == nil && told.Result == proto.OutcomeAborted {
			t.Fatalf("round %d: GO was taken, and the source was told that it may thaw", i)
		}
		if begin != nil && told.Result != proto.OutcomeAborted {
			t.Fatalf("round %d: GO was refused, and the source was told %s", i, told.Result)
		}
	}
}

// However old: a source that is still frozen must not be told that it may thaw what runs here.
func TestOldOutcomes(t *testing.T) {
	dir := t.TempDir()
	o := openOutcomes(t, dir)
	ids := map[string]string{}
	for i, result := range []string{proto.OutcomePending, proto.OutcomeCommitted, proto.OutcomeAborted} {
		id := fmt.Sprintf("%032x", i)
		ids[id] = result
		err := o.Begin(id)
		switch result {
		case proto.OutcomeCommitted:
			err = errors.Join(err, o.Commit(id, proto.CommittedMsg{Pid: 7}, ""))
		case proto.OutcomeAborted:
			err = errors.Join(err, o.Abort(id))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-10 * 365 * 24 * time.Hour)
	if err := os.WriteFile(filepath.Join(dir, ".new-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Chtimes(filepath.Join(dir, e.Name()), long, long); err != nil {
			t.Fatal(err)
		}
	}
	o = openOutcomes(t, dir)
	if left, _ := filepath.Glob(filepath.Join(dir, ".new-*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	for id, result := range ids {
		wantOutcome(t, o, id, result)
	}
}
