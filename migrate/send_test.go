package migrate_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/proto"
	"migrate/internal/report"
)

func TestMove(t *testing.T) {
	s := newSite(t)
	rep, err := s.send(testContext(t))
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
	var sum float64
	for _, p := range rep.Downtime {
		if p.MS < 0 {
			t.Errorf("part %s lasted %v ms", p.Name, p.MS)
		}
		sum += p.MS
	}
	if len(rep.Downtime) == 0 || math.Abs(sum-rep.DowntimeMS) > 0.01 {
		t.Errorf("the parts of the downtime sum up to %v ms, it was %v ms: %v", sum, rep.DowntimeMS, rep.Downtime)
	}
	var phases []string
	for _, p := range rep.Phases {
		phases = append(phases, p.Name)
	}
	want := []string{report.Offer, report.Sync, report.Freeze, report.Ship, report.Restore, report.Handover, report.Finish}
	if len(phases) != len(want) {
		t.Errorf("phases are %v, want %v", phases, want)
	}
	if rep.Memory.Raw < int64(len(s.memory)) || rep.Files.Raw == 0 || rep.Image.Raw == 0 || rep.WireBytes == 0 {
		t.Errorf("volumes are %+v %+v %+v, %d on the wire", rep.Memory, rep.Files, rep.Image, rep.WireBytes)
	}
	if b, err := os.ReadFile(filepath.Join(s.dir, "cgroup/freezer.state")); err != nil || string(b) != "THAWED" {
		t.Errorf("the cgroup at the source is %s, %v", b, err)
	}
}

// Memory that is copied in rounds arrives as the dump left it.
func TestMovePrecopy(t *testing.T) {
	s := newSite(t)
	s.usePrecopy()
	rep, err := s.send(testContext(t))
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := s.check(rep, err); err != nil {
		t.Error(err)
	}
	running, frozen := 0, 0
	for _, r := range rep.Rounds {
		if r.Frozen {
			frozen++
		} else {
			running++
		}
	}
	if running < 3 || frozen != 1 || rep.Rounds[0].Pages == 0 || rep.Tracker == "" || rep.Mode != proto.ModePrecopy {
		t.Errorf("mode %s, tracker %s, rounds %+v", rep.Mode, rep.Tracker, rep.Rounds)
	}
	if !slices.ContainsFunc(rep.Phases, func(p report.Phase) bool { return p.Name == report.Precopy }) {
		t.Errorf("phases are %+v", rep.Phases)
	}
}

// A container that does not stop at once is frozen at the next try; one that never does runs on.
func TestPauseIsTriedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		busy int
		code fail.Code
	}{"twice": {2, ""}, "for ever": {1 << 20, fail.Internal}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.src.Fault = func(op string, n int) error {
				if op == fake.OpPause && n <= c.busy {
					return fmt.Errorf("pause: %w", engine.ErrBusy)
				}
				return nil
			}
			rep, err := s.send(testContext(t))
			if c.code != "" {
				wantCode(t, err, c.code)
			} else if err != nil {
				t.Error(err)
			}
			if err := s.check(rep, err); err != nil {
				t.Error(err)
			}
		})
	}
}
