package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"migrate/internal/fail"
	"migrate/internal/report"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", name, got, want)
	}
}

func testReport() *report.Report {
	return &report.Report{
		Version: report.Version, ID: "0123456789abcdef0123456789abcdef", Container: "redis", Namespace: "default",
		Destination: "b:7600", Name: "cache", Result: report.Moved, Pid: 4242, Started: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		DowntimeMS: 182.5, TotalMS: 1420, Mode: "precopy", Tracker: "wp", Verified: 16384,
		Rounds: []report.Round{
			{Pages: 16384, Zero: 100, Same: 20, Wire: 60 << 20, MS: 130, RestPages: 16384, RestMS: 130, Decision: "more-to-send"},
			{Pages: 57, Unchanged: 14, Delta: 9, Wire: 170_000, MS: 5.5, RestPages: 2, RestMS: 0.5, Decision: "fits"},
			{Frozen: true, Pages: 25, Wire: 10_000, MS: 4},
		},
		Fill:      &report.Fill{MS: 37.5, Pages: 16825, Faults: 5},
		Phases:    []report.Phase{{Name: report.Offer, MS: 71}, {Name: report.Sync, MS: 1065}, {Name: report.Freeze, MS: 142}, {Name: report.Finish, MS: 142}},
		Downtime:  []report.Part{{Name: "dump", MS: 60.5}, {Name: "ship", MS: 22}, {Name: "restore", MS: 95}, {Name: "resume", MS: 5}},
		RestoreMS: map[string]float64{"criu": 80, "journal": 2},
		Memory:    report.Volume{Raw: 64 << 20, Wire: 21 << 20}, Files: report.Volume{Raw: 1500, Wire: 700},
		Volumes: report.Volume{Raw: 4096, Wire: 4000},
		Storage: []report.Storage{
			{Mount: "/data", How: "copied", Path: "/srv/data", Name: "data", Raw: 4096, Wire: 4000}, {Mount: "/conf", How: "present", Path: "/srv/conf"},
			{Mount: "/dev/shm", How: "memory"},
		},
		WireBytes: 22 << 20, TCP: "established", Connections: 1,
	}
}

func TestSummary(t *testing.T) { golden(t, "summary.txt", summary(testReport())) }

func TestSummaryOfMemoryThatStayed(t *testing.T) {
	r := testReport()
	r.Mode, r.Tracker, r.Rounds = "postcopy", "", nil
	r.Fetch = &report.Fetch{DegradedMS: 8123, Pages: 16384, Asked: 40, MedianMS: 2.5, P99MS: 9}
	text := summary(r)
	for _, want := range []string{"degraded", "8.12 s", "64.0 MiB that had stayed", "40 pages waited for"} {
		if !strings.Contains(text, want) {
			t.Errorf("the summary has no %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "reconnected") {
		t.Errorf("nobody reconnected:\n%s", text)
	}
	r.Fetch.Reconnects = 2
	if text = summary(r); !strings.Contains(text, "reconnected 2 times") {
		t.Errorf("the summary does not tell of reconnects:\n%s", text)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := printJSON(&b, testReport()); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", b.String())
	b.Reset()
	r := sendOptions{container: "redis", dest: destination{text: "b:7600"}, spec: engineSpec{Namespace: "default"}, tcp: "close"}.stayed(
		&fail.Fault{Code: fail.Refused, What: "take in the container", Where: "destination, phase offer", Why: "the name is taken",
			Remedy: "choose another name with --name", Log: "/var/log/migrate/x.log", State: "it runs on"})
	r.Started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := printJSON(&b, r); err != nil {
		t.Fatal(err)
	}
	golden(t, "report-failed.json", b.String())
}

// story is a migration as its observer sees it.
var story = []struct {
	at time.Duration
	ev report.Event
}{
	{0, report.Event{Phase: report.Offer}},
	{70 * time.Millisecond, report.Event{Phase: report.Offer, End: true, Took: 70 * time.Millisecond}},
	{70 * time.Millisecond, report.Event{Phase: report.Sync}},
	{time.Second, report.Event{Phase: report.Sync, Done: 10 << 20, Total: 100 << 20}},
	{2 * time.Second, report.Event{Phase: report.Sync, Done: 30 << 20, Total: 100 << 20}},
	{6 * time.Second, report.Event{Phase: report.Sync, Done: 100 << 20, Total: 100 << 20}},
	{7 * time.Second, report.Event{Phase: report.Sync, Done: 512, Total: 0}},
	{8 * time.Second, report.Event{Phase: report.Sync, Done: 4096, Total: 2048}},
	{9 * time.Second, report.Event{Phase: report.Sync, End: true, Took: 8930 * time.Millisecond}},
	{9 * time.Second, report.Event{Phase: report.Freeze}},
	{9*time.Second + 350*time.Millisecond, report.Event{Phase: report.Freeze, Note: "something worth a line"}},
	{9*time.Second + 360*time.Millisecond, report.Event{Phase: report.Freeze, Note: "something worth a line"}},
	{9*time.Second + 400*time.Millisecond, report.Event{Phase: report.Freeze, End: true, Took: 400 * time.Millisecond}},
}

func TestTracker(t *testing.T) {
	var tr tracker
	var b strings.Builder
	start := time.Unix(1000, 0)
	for _, s := range story {
		now := start.Add(s.at)
		for _, l := range tr.apply(s.ev, now) {
			b.WriteString("final: " + l + "\n")
		}
		b.WriteString("       " + tr.line(now) + "\n")
	}
	for _, l := range tr.last(false) {
		b.WriteString("final: " + l + "\n")
	}
	golden(t, "tracker.txt", b.String())
}

func TestProgressPlain(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, nil)
	for _, s := range story {
		p.observe(s.ev)
	}
	p.say("last words")
	p.stop(true)
	golden(t, "plain.txt", b.String())
}

func TestProgressTerminal(t *testing.T) {
	var b bytes.Buffer
	p := newProgress(&b, func() int { return 20 })
	p.tracker = tracker{phase: report.Ship, done: 50 << 20, total: 100 << 20}
	p.say("a line")
	p.stop(true)
	want := clearLine + "a line\n" + clearLine + "ship       50%   50" + clearLine
	if b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// A terminal that takes nothing must not hold up the migration.
func TestProgressNeverBlocks(t *testing.T) {
	stuck := make(chan struct{})
	p := newProgress(writerFunc(func(b []byte) (int, error) { <-stuck; return len(b), nil }), nil)
	done := make(chan struct{})
	go func() {
		for range 1000 {
			p.observe(report.Event{Phase: report.Sync, Note: "x"})
		}
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the observer blocked")
	}
	close(stuck)
	p.stop(true)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestShow(t *testing.T) {
	moved, err := testReport(), errors.New("x")
	for _, tt := range []struct {
		name string
		o    sendOptions
		rep  *report.Report
		want string
	}{
		{"summary", sendOptions{}, moved, "moved redis to b:7600 as cache"},
		{"quiet", sendOptions{quiet: true}, moved, ""},
		{"json", sendOptions{json: true}, moved, "{\n  \"version\": 1,"},
		{"stayed", sendOptions{}, sendOptions{}.stayed(err), ""},
	} {
		var b bytes.Buffer
		if err := tt.o.show(tt.rep, nil, &b); err != nil || !strings.HasPrefix(b.String(), tt.want) || tt.want == "" && b.Len() > 0 {
			t.Errorf("%s: %v, %q", tt.name, err, b.String())
		}
	}
}

func TestCanceller(t *testing.T) {
	said := 0
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &canceller{cancel: cancel, say: func(string) { said++ }}
	c.observe(report.Event{Phase: report.Handover})
	c.handle(syscall.SIGINT)
	if ctx.Err() != nil || said != 1 {
		t.Fatalf("the first signal of a hand-over: %v, %d lines", ctx.Err(), said)
	}
	c.observe(report.Event{Phase: report.Handover, Note: "still waiting"})
	c.handle(syscall.SIGINT)
	if ctx.Err() == nil {
		t.Fatal("the second signal of a hand-over does not end the wait")
	}
	ctx, c.cancel = context.WithCancelCause(context.Background())
	c.observe(report.Event{Phase: report.Handover, End: true})
	c.observe(report.Event{Phase: report.Serve})
	c.handle(syscall.SIGINT)
	if ctx.Err() != nil || said != 2 {
		t.Fatalf("the first signal while memory is still here: %v, %d lines", ctx.Err(), said)
	}
	c.observe(report.Event{Phase: report.Finish})
	c.handle(syscall.SIGINT)
	if ctx.Err() != nil || said != 3 {
		t.Fatalf("a signal when all is over: %v, %d lines", ctx.Err(), said)
	}
	c.observe(report.Event{Phase: report.Serve})
	c.handle(syscall.SIGINT)
	c.handle(syscall.SIGINT)
	if ctx.Err() == nil {
		t.Fatal("the second signal while memory is still here does not give the container up")
	}
	ctx, c.cancel = context.WithCancelCause(context.Background())
	c.observe(report.Event{Phase: report.Ship})
	c.handle(syscall.SIGTERM)
	if !errors.Is(context.Cause(ctx), context.Canceled) {
		t.Fatalf("the cause is %v", context.Cause(ctx))
	}
}
