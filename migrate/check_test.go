package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/migrate"
	"migrate/transfer"
)

// crowded is a source whose container has more processes than the one that the site knows.
type crowded struct {
	source
	pids []int
}

func (e crowded) Inspect(ctx context.Context, id string) (*engine.Container, *engine.Handles, error) {
	c, h, err := e.source.Inspect(ctx, id)
	if err == nil {
		h.Pids = append(h.Pids, e.pids...)
	}
	return c, h, err
}

// stranger is a process that is no descendant of the container's first one.
func stranger(t *testing.T) int {
	t.Helper()
	c := exec.Command("sleep", "1000")
	must(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c.Process.Pid
}

func (s *site) checkOptions() migrate.Options {
	return migrate.Options{Container: contID, Destination: "dst", Dial: s.dial, Memory: migrate.MemoryOptions{Mode: proto.ModeStop}}
}

func has(fs []preflight.Finding, code, side string) bool {
	return slices.ContainsFunc(fs, func(f preflight.Finding) bool { return f.Code == code && f.Side == side })
}

func TestCheckFindsOnBothSides(t *testing.T) {
	s := newSite(t)
	rep, err := migrate.Check(t.Context(), crowded{source{s.src, s}, []int{stranger(t)}}, s.checkOptions(), false)
	s.serving.Wait()
	must(t, err)
	if !rep.Blocked || !has(rep.Findings, "exec-session", preflight.Source) || rep.Peer == nil || rep.Name != contID {
		t.Errorf("%+v", rep)
	}
	if rep.Findings[0].State != preflight.StillRunning {
		t.Errorf("a finding does not say that the container is still running: %+v", rep.Findings[0])
	}
	if after := s.dst.Left(); !slices.Equal(after, s.before) {
		t.Errorf("the destination is left with %v", after)
	}
}

func TestCheckAsksTheDestinationsPolicy(t *testing.T) {
	s := newSite(t)
	c := fake.Container(contID)
	c.Network = engine.Network{Mode: engine.NetworkNone}
	c.Spec = []byte(strings.Replace(spec, `"mounts":[`, `"mounts":[{"destination":"/tmp","type":"bind","source":"/srv/one","options":["bind"]},{"destination":"/usr","type":"bind","source":"/srv/two","options":["bind"]},`, 1))
	s.src.AddContainer(c, engine.StatusRunning)
	rep, err := migrate.Check(t.Context(), source{s.src, s}, s.checkOptions(), false)
	s.serving.Wait()
	must(t, err)
	var why []string
	for _, f := range rep.Findings {
		if f.Side == preflight.Destination && f.Severity == preflight.Blocks {
			why = append(why, f.Reason)
		}
	}
	if text := fmt.Sprint(why); len(why) != 2 || !strings.Contains(text, "/srv/one") || !strings.Contains(text, "/srv/two") {
		t.Errorf("found %v", why)
	}
}

func TestSendRefusesBeforeAnythingElse(t *testing.T) {
	s := newSite(t)
	rep, err := migrate.Send(t.Context(), crowded{source{s.src, s}, []int{stranger(t)}}, s.checkOptions())
	var f *fail.Fault
	if !errors.As(err, &f) || fail.Exit(err) != 3 || !strings.Contains(f.Why, "exec-session") || !strings.Contains(f.State, "never stopped") {
		t.Fatalf("got %v", err)
	}
	if s.dials.Load() != 0 || rep.Result != report.Stayed || !has(rep.Findings, "exec-session", preflight.Source) {
		t.Errorf("%d sessions, %+v", s.dials.Load(), rep)
	}
}

// What comes up while the container is on its way is found before it is stopped.
func TestSendLooksAgainBeforeTheFreeze(t *testing.T) {
	s := newSite(t)
	pid := stranger(t)
	s.observe = func(ev report.Event) {
		if ev.Phase == report.Sync {
			procs := filepath.Join(s.dir, "cgroup/cgroup.procs")
			_ = os.WriteFile(procs, fmt.Appendf(nil, "%d\n%d\n", s.pid, pid), 0o644)
		}
	}
	rep, err := s.send(t.Context())
	var f *fail.Fault
	if !errors.As(err, &f) || f.Code != fail.Unsupported || !strings.Contains(f.Why, "exec-session") || !strings.Contains(f.State, "never stopped") {
		t.Fatalf("got %v", err)
	}
	s.check(rep, err)
}

func TestIgnoredFindingsDoNotStop(t *testing.T) {
	s := newSite(t)
	opt := s.checkOptions()
	opt.Ignore = []string{"exec-session"}
	rep, err := migrate.Check(t.Context(), crowded{source{s.src, s}, []int{stranger(t)}}, opt, false)
	s.serving.Wait()
	must(t, err)
	if rep.Blocked || !has(rep.Findings, "exec-session", preflight.Source) {
		t.Errorf("%+v", rep)
	}
}

// A destination whose CPU lacks something refuses, unless it is told not to mind.
func TestCPUFeatures(t *testing.T) {
	s := newSite(t)
	s.answer = func(_ int, sess *transfer.Session) bool {
		in, ctx, stop := proto.NewInbox(context.Background(), sess)
		defer stop(nil)
		var q proto.CheckMsg
		if err := in.Recv(ctx, proto.Check, &q); err != nil {
			t.Error(err)
		}
		facts := q.Offer.Facts
		facts.CPU = nil
		if len(q.Offer.Facts.CPU) == 0 {
			t.Error("the source does not say what its CPU has")
		}
		fs := append(preflight.Compare(&q.Offer.Facts, &facts, nil, ""), preflight.Finding{Code: "of-tomorrow", Severity: "?", Side: preflight.Source, Reason: "\x1b[2J"})
		_ = proto.Send(ctx, sess, proto.Checked, proto.CheckedMsg{Facts: facts, Findings: fs})
		_ = sess.Close()
		return true
	}
	rep, err := migrate.Check(t.Context(), source{s.src, s}, s.checkOptions(), false)
	s.serving.Wait()
	must(t, err)
	if !has(rep.Findings, "cpu-features", preflight.Destination) || !has(rep.Findings, "of-tomorrow", preflight.Destination) || !rep.Blocked {
		t.Errorf("%+v", rep.Findings)
	}
	for _, f := range rep.Findings {
		if strings.Contains(f.Text(), "\x1b") {
			t.Errorf("a peer steers the terminal: %q", f.Text())
		}
	}
}
