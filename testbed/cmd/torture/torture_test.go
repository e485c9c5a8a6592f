package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"migrate/internal/report"
)

func sound() options {
	return options{migrations: 10, hops: 2, mib: 16, link: "none", trackers: []string{"wp", "hash"}, ways: []string{wayLazy, wayEager}, verify: verifyHalf}
}

func TestOptions(t *testing.T) {
	if err := sound().check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*options){
		"no moves":        func(o *options) { o.migrations = 0 },
		"no hops":         func(o *options) { o.hops = 0 },
		"tiny":            func(o *options) { o.mib = 1 },
		"huge":            func(o *options) { o.mib = maxMemory + 1 },
		"unknown link":    func(o *options) { o.link = "fast" },
		"no tracker":      func(o *options) { o.trackers = nil },
		"unknown tracker": func(o *options) { o.trackers = []string{"guess"} },
		"tracker twice":   func(o *options) { o.trackers = []string{"wp", "wp"} },
		"unknown way":     func(o *options) { o.ways = []string{"late"} },
		"unknown share":   func(o *options) { o.verify = "some" },
		"faults backward": func(o *options) { o.faults = -1 },
	} {
		o := sound()
		if spoil(&o); o.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestCombos checks that every combo comes once, and that the order follows from the seed.
func TestCombos(t *testing.T) {
	o := sound()
	o.cases = []string{"x", "y", "z"}
	order := func(seed uint64) []combo { return o.combos(rand.New(rand.NewPCG(seed, 0))) }
	all := order(1)
	seen := map[combo]bool{}
	for _, c := range all {
		seen[c] = true
	}
	if len(all) != 12 || len(seen) != 12 {
		t.Errorf("%d combos, %d different", len(all), len(seen))
	}
	if !slices.Equal(all, order(1)) || slices.Equal(all, order(2)) {
		t.Error("the order does not follow from the seed")
	}
}

// TestFaults checks that every fault can be picked, and none that a move cannot meet.
func TestFaults(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	for _, late := range []bool{true, false} {
		seen := map[string]int{}
		for range 1000 {
			f := pickFault(r, late)
			if seen[f.name]++; f.filled && !late {
				t.Fatalf("%s for a move whose memory is in place", f.name)
			}
		}
		for _, f := range faults {
			if (seen[f.name] > 0) != (late || !f.filled) {
				t.Errorf("memory that comes late %v: %s was picked %d times", late, f.name, seen[f.name])
			}
		}
	}
}

// TestJudge checks which outcomes are right after a fault.
func TestJudge(t *testing.T) {
	ended := func(code int) *exec.Cmd {
		cmd := exec.Command("sh", "-c", fmt.Sprintf("exit %d", code))
		_ = cmd.Run() // its state tells
		return cmd
	}
	for _, c := range []struct {
		fault   string
		missed  bool
		outcome string
		code    int
		right   bool
	}{
		{fault: "source killed in precopy", outcome: stayed, code: 137, right: true},
		{fault: "source killed in precopy", outcome: moved, code: 137},
		{fault: "source killed in hold", outcome: moved, code: 137, right: true},
		{fault: "source killed in hold", outcome: lost, code: 137},
		{fault: "destination killed in hold", outcome: stayed, code: 6, right: true},
		{fault: "destination killed in hold", outcome: stayed, code: 0},
		{fault: "destination killed in hold", outcome: moved, code: 6},
		{fault: "destination killed in fill", outcome: moved, code: 0, right: true},
		{fault: "destination killed in fill", outcome: lost, code: exitLost},
		{fault: "pager killed in fill", outcome: lost, code: exitLost, right: true},
		{fault: "pager killed in fill", outcome: lost, code: 0},
		{fault: "pager killed in fill", outcome: moved, code: 0},
		{fault: "pager killed in fill", missed: true, outcome: moved, code: 0, right: true},
		{fault: "pager killed in fill", missed: true, outcome: lost, code: exitLost},
	} {
		i := slices.IndexFunc(faults, func(f fault) bool { return f.name == c.fault })
		f := &faulted{fault: faults[i], missed: c.missed, cmd: ended(c.code)}
		if err := f.judge(c.outcome); (err == nil) != c.right {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestPagesIn(t *testing.T) {
	differ, compared, ok := pagesIn("3 of 1729 pages differ, the first is process 1, page 0x7f071d1da000")
	if differ != 3 || compared != 1729 || !ok {
		t.Errorf("%d of %d, %v", differ, compared, ok)
	}
	if _, _, ok := pagesIn("a page cannot be read"); ok {
		t.Error("another failure is taken for pages that differ")
	}
}

func TestLinesOf(t *testing.T) {
	lines := linesOf("tick 1 x\n{\"started\":\"cow\"}\ntick 2 x\n{\"verified\":true,\"number\":1,\"pages\":7}\n{\"damaged\":{\"what\":\"x\"}}\n{\"verified\":tr")
	if len(lines) != 3 || lines[0].Started != "cow" || !lines[1].Verified || lines[1].Pages != 7 || lines[2].Damaged == nil {
		t.Errorf("lines are %+v", lines)
	}
}

// TestResults holds counts, file, table and verdict to each other.
func TestResults(t *testing.T) {
	r := newResults(sound())
	if r.verdict() == nil {
		t.Error("a run that moved nothing is all right")
	}
	a, b := r.row(combo{"b", "wp", wayLazy}), r.row(combo{"a", "hash", wayEager})
	if r.row(a.combo) != a {
		t.Error("a combo has two rows")
	}
	a.moved(&move{verify: true, rep: &report.Report{Verified: 100, DowntimeMS: 9}})
	a.moved(&move{rep: &report.Report{DowntimeMS: 5, Fill: &report.Fill{Faults: 3, Pages: 50}}})
	a.selfVerified(70)
	b.selfVerified(5)
	if r.verdict() != nil || r.Totals != (counts{
		Migrations: 2, Compared: 1, Unassisted: 1, PagesCompared: 100, SelfVerified: 2, SelfPages: 75, Faults: 3, FillPages: 50,
	}) || a.Longest.MS != 5 {
		t.Errorf("totals are %+v, the longest stop %v, the verdict %v", r.Totals, a.Longest, r.verdict())
	}
	b.differing(2, 40)
	b.fail(failure{Kind: kindDiffers, Text: "2 of 40 pages differ"})
	b.unavailable(errors.New("no such memory"))
	b.unavailable(errors.New("no such memory"))
	r.finish()
	if err := r.verdict(); err == nil || !strings.Contains(err.Error(), "2 of 140 pages differ, 1 failures") {
		t.Errorf("the verdict is %v", err)
	}
	fr := r.faultRow(faults[0])
	(&faulted{fault: faults[0]}).note(fr, stayed, true)
	(&faulted{fault: faults[0], missed: true}).note(fr, moved, false)
	if r.faultRow(faults[0]) != fr || fr.Struck != 1 || fr.Missed != 1 || fr.Outcomes[stayed] != 1 || fr.ByHand != 1 || fr.Verified != 1 {
		t.Errorf("the fault's row is %+v", fr)
	}
	if len(r.Mix) != 2 || r.Mix[0].Tracker != "hash" || r.Mix[0].Failures != 1 || r.Mix[1].Migrations != 2 {
		t.Errorf("the mix is %+v", r.Mix)
	}
	if len(r.Notes) != 1 || r.Rows[0] != b {
		t.Errorf("notes %v, first row %v", r.Notes, r.Rows[0].combo)
	}
	var out strings.Builder
	printTable(&out, r)
	for _, want := range []string{"CANNOT RUN HERE", "FAILURE (pages) a", "note: a: no such memory", "total", "stayed 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table does not say %q:\n%s", want, &out)
		}
	}
}

// TestFile holds the file to the fields that its readers know.
func TestFile(t *testing.T) {
	r := newResults(sound())
	r.row(combo{"a", "hash", wayEager}).moved(&move{verify: true, rep: &report.Report{Verified: 100}})
	path := filepath.Join(t.TempDir(), "build", "torture.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases  []map[string]any
		Totals map[string]any
	}
	if err := json.Unmarshal(text, &file); err != nil || len(file.Cases) != 1 {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, field := range []string{"migrations", "pages_compared", "pages_differing", "self_verified", "compared", "unassisted"} {
		if _, ok := file.Totals[field].(float64); !ok {
			t.Errorf("the totals have no %s", field)
		}
		if _, ok := file.Cases[0][field].(float64); !ok {
			t.Errorf("a case has no %s", field)
		}
	}
	if _, ok := file.Cases[0]["failures"].([]any); !ok || file.Cases[0]["tracker"] != "hash" || file.Cases[0]["way"] != wayEager {
		t.Errorf("a case is %v", file.Cases[0])
	}
}
