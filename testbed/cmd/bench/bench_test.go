package main

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"migrate/internal/report"
	"migrate/testbed"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		runs []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 3}, 2.5}} {
		if got := median(c.runs); got != c.want {
			t.Errorf("median of %v is %v, not %v", c.runs, got, c.want)
		}
	}
}

func TestSilence(t *testing.T) {
	after := time.Date(2026, 3, 1, 0, 0, 1, 0, time.UTC) // just past midnight: lines before it are of the day before
	before := parseTicks("tick 1 23:59:59.800\ntick 2 23:59:59.900\nsome words\ntick 3 00:00:00.050\n", after)
	if len(before) != 3 || lastTick(before) != 3 {
		t.Fatalf("ticks are %v", before)
	}
	// the source printed a line that the move did not take along
	gap, err := silence(before, parseTicks("tick 3 00:00:00.400", after)[0])
	if err != nil || gap != 500*time.Millisecond {
		t.Errorf("the gap is %v, %v", gap, err)
	}
	if _, err := silence(before, tick{n: 9, at: after}); err == nil {
		t.Error("lines are missing and nobody notices")
	}
}

func TestMarks(t *testing.T) {
	m := parseMarks("mark begin 1000000\ntick 3 00:00:00.400\nmark end 1012500\n")
	steps := m.steps("begin", "end")
	if len(steps) != 1 || steps[0] != (step{"end", 12.5}) {
		t.Errorf("steps are %v", steps)
	}
}

func TestParseSizes(t *testing.T) {
	if sizes, err := parseSizes("16, 64"); err != nil || len(sizes) != 2 || sizes[1] != 64 {
		t.Errorf("sizes are %v, %v", sizes, err)
	}
	for _, text := range []string{"", "0", "16,,64", "1e3", "99999"} {
		if _, err := parseSizes(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestTicksOfLogs(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ticks := parseTicks("2026-03-01T12:00:00.100+00:00 stdout F tick 7 12:00:00.099\n", at)
	if len(ticks) != 1 || ticks[0].n != 7 || ticks[0].at != at.Add(99*time.Millisecond) {
		t.Errorf("ticks are %v", ticks)
	}
}

func TestParseLimits(t *testing.T) {
	limits, err := parseLimits("ctr=1024,podman=256:3")
	if err != nil {
		t.Fatal(err)
	}
	o := options{limits: limits}
	for _, c := range []struct {
		tool       string
		mib, round int
		want       bool
	}{
		{toolMigrate, 4096, 99, true}, {toolCtr, 1024, 6, true}, {toolCtr, 1025, 0, false},
		{toolPodman, 256, 2, true}, {toolPodman, 256, 3, false}, {toolPodman, 257, 0, false},
	} {
		if got := o.takesPart(c.tool, c.mib, c.round); got != c.want {
			t.Errorf("%s takes part with %d MiB in round %d: %v", c.tool, c.mib, c.round, got)
		}
	}
	if limits, err := parseLimits(""); err != nil || len(limits) != 0 {
		t.Errorf("no limits are %v, %v", limits, err)
	}
	for _, text := range []string{"ctr", "ctr=", "nobody=16", "ctr=16:0", "ctr=16:x", "ctr=16,"} {
		if _, err := parseLimits(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestLaterPages(t *testing.T) {
	rounds := []report.Round{{Pages: 1000}, {Pages: 50, Zero: 1, Unchanged: 2, Same: 3, Delta: 4}, {Pages: 6, Frozen: true}}
	if got := laterPages(rounds); got != 44+6 {
		t.Errorf("%d pages", got)
	}
	if got := laterPages(nil); got != 0 {
		t.Errorf("%d pages without rounds", got)
	}
}

func TestAgentMemory(t *testing.T) {
	if got := anonymous("Name:\tmigrate\nVmHWM:\t    9000 kB\nRssAnon:\t    2048 kB\nRssFile:\t  100 kB\n"); got != 2<<20 {
		t.Errorf("%d bytes", got)
	}
	if got := anonymous("Name:\tkthreadd\n"); got != 0 {
		t.Errorf("%d bytes of a process without memory", got)
	}
}

func TestAddressSpace(t *testing.T) {
	stat := func(name, stack string) string {
		return "7 (" + name + ") S 1 7 7 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 5 0 99 100 200 300 4194304 5000000 " + stack + " 0 0 0 0 0 0 17 0 0 0 0 0 0"
	}
	if got := addressSpace(stat("migrate", "140721")); got != "140721" {
		t.Errorf("%q", got)
	}
	if got := addressSpace(stat("a) b (c", "140721")); got != "140721" {
		t.Errorf("of a strange name: %q", got)
	}
	if got := addressSpace(stat("migrate", "0")) + addressSpace("7 (short) S 1"); got != "" {
		t.Errorf("of none: %q", got)
	}
	own, err := os.ReadFile("/proc/self/stat")
	if err != nil || addressSpace(string(own)) == "" {
		t.Errorf("this process has no address space: %q, %v", own, err)
	}
}

// TestFootprint has a piece of this test's own memory looked at, with pages of each kind.
func TestFootprint(t *testing.T) {
	const each = 600 // more than one batch
	area, err := unix.Mmap(-1, 0, 5*each*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(area) }()
	if err := unix.Madvise(area, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{1})
	_, _ = noise.Read(area[:each*pageSize]) // never fails
	copy(area[each*pageSize:], area[:each*pageSize])
	for i := range each {
		area[(2*each+i)*pageSize] = 0                       // there, and zeros
		copy(area[(3*each+i)*pageSize:], strconv.Itoa(i+1)) // compresses to next to nothing
	} // and what follows was never touched
	begin := uint64(uintptr(unsafe.Pointer(&area[0])))
	got, err := surveySpans("/proc/self", []span{{begin, begin + uint64(len(area))}})
	if err != nil {
		t.Fatal(err)
	}
	if got.pages != 4*each || got.unique != 2*each {
		t.Errorf("%d pages, %d of them unique", got.pages, got.unique)
	}
	if got.zstd < each*pageSize || got.zstd > each*pageSize*105/100 {
		t.Errorf("%d pages of noise and as many of nearly nothing compress to %d bytes", each, got.zstd)
	}
}

func TestSpans(t *testing.T) {
	maps := filepath.Join(t.TempDir(), "maps")
	text := "00400000-00452000 r-xp 00000000 08:02 173521  /usr/bin/a[v1]\nc000000000-c000400000 rw-p 00000000 00:00 0\n" +
		"7ffd2000-7ffd4000 r-xp 00000000 00:00 0  [vdso]\nffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]\n"
	if err := os.WriteFile(maps, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	spans, err := readSpans(maps)
	want := []span{{0x400000, 0x452000}, {0xc000000000, 0xc000400000}}
	if err != nil || !slices.Equal(spans, want) {
		t.Errorf("spans are %x, %v", spans, err)
	}
}

func TestLoadCounts(t *testing.T) {
	info := "# Server\r\nserver_time_usec:%d\r\n# Stats\r\ntotal_commands_processed:%d\r\n"
	begin := time.UnixMicro(1_000_000)
	var text string
	for i := range 60 {
		n := i * 100 // a hundred in each tenth of a second, and half of that from the 40th on
		if i > 40 {
			n = 4000 + (i-40)*50
		}
		text += fmt.Sprintf(info, 1_000_000+i*100_000, n)
	}
	rep := &report.Report{Started: begin.Add(3050 * time.Millisecond), Phases: []report.Phase{{Name: report.Offer, MS: 950}, {Name: report.Precopy, MS: 1500}}}
	w := &loadRow{}
	if err := w.add(rep, parseCounts(text)); err != nil {
		t.Fatal(err)
	}
	if got := w.ratio(); math.Abs(got-0.5) > 0.001 || math.Abs(w.BeforePerSec[0]-1000) > 0.1 {
		t.Errorf("ratio is %v in %+v", got, w)
	}
	rep.Started = begin.Add(time.Second)
	if err := w.add(rep, parseCounts(text)); err == nil {
		t.Error("redis was not watched for long enough and nobody notices")
	}
}

func TestLinkRate(t *testing.T) {
	got, err := parseIperf(`{"end":{"sum_sent":{"bits_per_second":1},"sum_received":{"bits_per_second":9.5e9}}}`)
	if err != nil || got != 9500 {
		t.Errorf("%v Mbit/s, %v", got, err)
	}
	if _, err := parseIperf(`{"error":"busy"}`); err == nil {
		t.Error("an error is a rate")
	}
	ours, err := firstRoundMbit(&report.Report{Rounds: []report.Round{{Wire: 125_000_000, MS: 500}, {Frozen: true, Wire: 1, MS: 1}}})
	if err != nil || ours != 2000 {
		t.Errorf("%v Mbit/s, %v", ours, err)
	}
	if _, err := firstRoundMbit(&report.Report{Rounds: []report.Round{{Frozen: true, Wire: 1, MS: 1}}}); err == nil {
		t.Error("a round with the container frozen has a rate")
	}
}

// TestNewTargets has each target of single sizes just met, and then just missed.
func TestNewTargets(t *testing.T) {
	l := &lab{options: options{linkMbit: 10_000}}
	build := func(worse float64) *results {
		r := &results{used: []tool{&mover{lab: l}, &floor{lab: l}, &exporter{lab: l}, &podman{lab: l}}}
		for mib, ours := range map[int]float64{64: 100, 1024: 200, 4096: 300 * worse} {
			in := &inside{report: &report.Report{Rounds: []report.Round{{Pages: 1}, {Pages: 25}}}, memory: footprint{zstd: 900_000 - 25*pageSize + 100_000}, src: 128 << 20}
			if worse > 1 {
				in.dst = 129 << 20
			}
			s := map[string]sample{toolMigrate: {downtime: ours, wire: int64(1_100_000 * worse), inside: in}, toolFloor: {downtime: ours / 0.35 / worse}}
			switch mib {
			case 1024:
				s[toolCtr], s[toolPodman] = sample{downtime: 2000 / worse}, sample{downtime: 2000 / worse}
			case 4096:
				s[toolFloor] = sample{downtime: ours / 0.12 / worse}
			}
			r.add(l, mib, s)
		}
		r.Link = []*linkRow{{LinkMbit: 1000, RoundMbit: []float64{900 / worse}, IperfMbit: []float64{1000}}}
		r.Load = &loadRow{Clients: 50, DuringPerSec: []float64{900 / worse}, BeforePerSec: []float64{1000}}
		r.Gap = gapRows(20*worse, 50*worse, int64(math.Floor(worse*100))-100)
		r.Check = &checkRow{CheckMS: []float64{150 * worse}, ListMS: []float64{100}}
		r.Postgres = &postgresRow{BuffersMiB: 1024, SharedMiB: []float64{1}, DowntimeMS: []float64{800 * worse}, QuietMS: []float64{1}, TotalMS: []float64{1}, FloorMS: []float64{1000}}
		r.Docker = sampleDocker(l, 300/worse)
		r.judge()
		return r
	}
	for _, c := range []struct {
		worse float64
		met   bool
	}{{1, true}, {1.01, false}} {
		for _, v := range build(c.worse).Verdicts {
			if v.What == "ours ≤ 1.5 × floor" || v.What == "ctr ≥ 3 × ours" {
				continue // far from their bounds here
			}
			if v.Met == nil || *v.Met != c.met {
				t.Errorf("%s is not %v: %v", v.What, c.met, v.Values)
			}
		}
	}
	var out strings.Builder
	printTable(&out, build(1))
	for _, want := range []string{"target: ours ≤ 0.12 × floor at 4 GiB: met (4096 MiB 0.12)", "agents at most 128 MiB at the source", "link of 1000 Mbit/s", "redis under"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}

// sampleDocker has ours take 100 ms, and by hand so many.
func sampleDocker(l *lab, byHand float64) *dockerResults {
	r := &dockerResults{Version: "26.1.5", Alone: &dockerAlone{Refusal: "connected socket"}}
	for _, mib := range []int{64, 1024} {
		r.add(l, mib, map[string]dockerSample{
			toolMigrate: {sample{downtime: 100, steps: []step{{"dump", 70}}}, kept{true, true, true}},
			toolDocker:  {sample{downtime: byHand, steps: []step{{"checkpoint", 200}}}, kept{File: true}},
		})
		r.add(l, mib, nil) // a round in which one of them failed
	}
	return r
}

func TestDocker(t *testing.T) {
	r := &results{Docker: sampleDocker(&lab{}, 299)}
	r.judge()
	var out strings.Builder
	printTable(&out, r)
	for _, want := range []string{
		"target: docker ≥ 3 × ours: missed (64 MiB 2.99, 1024 MiB 2.99)", "Docker 26.1.5", "with a client: connected socket", "file kept false", "checkpoint 200",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	var cells []string
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) == 12 && f[2] == toolDocker {
			cells = append(cells, strings.Join(f[9:], " "))
		}
	}
	if !slices.Equal(cells, []string{"0 1 0", "0 1 0"}) {
		t.Errorf("what was kept by hand is shown as %q in\n%s", cells, &out)
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(text), `"downtime_ms":[299]`) || !strings.Contains(string(text), `"kept":[{"connection":false,"file":true,"log":false}]`) {
		t.Errorf("%v in\n%s", err, text)
	}
	if limits, err := parseLimits("docker=64:1"); err != nil || limits[toolDocker] != (limit{64, 1}) {
		t.Errorf("limits are %v, %v", limits, err)
	}
}

// sampleResults has ours within the target at 16 MiB and beyond it at 64.
func sampleResults() *results {
	l := &lab{options: options{linkMbit: 10_000, network: testbed.NetworkCNI}}
	r := &results{Version: resultsVersion, used: []tool{&mover{lab: l}, &floor{lab: l}, &exporter{lab: l}}}
	r.add(l, 16, map[string]sample{
		toolMigrate: {downtime: 150, total: 400, wire: 1 << 20, steps: []step{{"dump", 90}}},
		toolFloor:   {downtime: 100}, toolCtr: {downtime: 600},
	})
	defer r.judge()
	r.add(l, 64, map[string]sample{toolMigrate: {downtime: 151}, toolFloor: {downtime: 100}, toolCtr: {downtime: 452}})
	return r
}

func TestTargets(t *testing.T) {
	var out strings.Builder
	printTable(&out, sampleResults())
	for _, want := range []string{
		"target: ours ≤ 1.5 × floor: missed (16 MiB 1.50, 64 MiB 1.51)",
		"target: ctr ≥ 3 × ours: missed (16 MiB 4.00, 64 MiB 2.99)",
		"dump 90",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	out.Reset()
	r := sampleResults()
	r.Rows = r.Rows[:1]
	r.judge()
	printTable(&out, r)
	if !strings.Contains(out.String(), "target: ours ≤ 1.5 × floor: not measured") {
		t.Errorf("without a floor it prints\n%s", &out)
	}
}

// TestFile holds the file to the fields that its readers know.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "build", "bench.json")
	if err := sampleResults().write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version int
		Host    map[string]any
		Rows    []map[string]any
	}
	if err := json.Unmarshal(text, &file); err != nil || file.Version != 1 || file.Host == nil || len(file.Rows) != 6 {
		t.Fatalf("%v in\n%s", err, text)
	}
	for _, row := range file.Rows {
		for _, list := range []string{"downtime_ms", "total_ms", "wire_bytes", "floor_ms"} {
			if runs, ok := row[list].([]any); !ok || len(runs) != 1 {
				t.Errorf("%s of %v is %v", list, row["tool"], row[list])
			}
		}
		if row["link_mbit"] != 10_000.0 || row["mode"] == "" || row["memory_mib"] == nil {
			t.Errorf("row is %v", row)
		}
	}
}
