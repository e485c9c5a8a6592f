package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/report"
	"migrate/testbed"
)

// resultsVersion changes when a field of the file changes its meaning or goes.
const resultsVersion = 1

// results is the file. Lists in a row have one entry per round, in the same order everywhere.
type results struct {
	Version  int            `json:"version"`
	Host     host           `json:"host"`
	Failures int            `json:"failures"` // runs that failed; their rounds are not in the rows
	Rows     []*row         `json:"rows"`
	Link     []*linkRow     `json:"link,omitempty"`
	Load     *loadRow       `json:"load,omitempty"`
	Gap      []*gapRow      `json:"gap,omitempty"`
	Post     []*postRow     `json:"post,omitempty"`
	Check    *checkRow      `json:"check,omitempty"`
	Postgres *postgresRow   `json:"postgres,omitempty"`
	Docker   *dockerResults `json:"docker,omitempty"`
	Verdicts []verdict      `json:"targets"`

	used []tool
}

// A row is one tool at one size. Times are milliseconds.
type row struct {
	Tool       string               `json:"tool"`
	Mode       string               `json:"mode"`
	MemoryMiB  int                  `json:"memory_mib"`
	DirtyPages int                  `json:"dirty_pages_per_sec"`
	LinkMbit   uint64               `json:"link_mbit"` // 0: no limit
	Network    testbed.Network      `json:"network"`
	DowntimeMS []float64            `json:"downtime_ms"`
	TotalMS    []float64            `json:"total_ms"`
	WireBytes  []int64              `json:"wire_bytes"`
	FloorMS    []float64            `json:"floor_ms"` // downtime of tool criu in the same round
	GapMS      []float64            `json:"gap_ms"`   // longest silence of the program, 0 to 10 ms more than the stop; 0: not known
	StepsMS    map[string][]float64 `json:"steps_ms"`
	Inside     *insideRow           `json:"inside,omitempty"` // of tool migrate

	order []string // of the steps
}

// An insideRow is what our own reports tell. Sizes are bytes, pages are of 4096 bytes.
type insideRow struct {
	Tracker    []string         `json:"tracker"`
	Rounds     [][]report.Round `json:"rounds"`
	FillMS     []float64        `json:"fill_ms"`
	FillFaults []int64          `json:"fill_faults"`
	// LeastWire is what had to be sent: UniqueZstd, and DirtyBytes as they are.
	LeastWire   []int64 `json:"least_wire_bytes"`
	UniqueZstd  []int64 `json:"unique_zstd_bytes"` // pages before the move that are neither zeros nor copies of others, after zstd -1
	DirtyBytes  []int64 `json:"dirty_bytes"`       // pages of the rounds after the first that had a new content
	Source      []int64 `json:"source_agent_bytes"`
	Destination []int64 `json:"destination_agent_bytes"`
}

func (w *insideRow) add(in *inside) {
	dirty := laterPages(in.report.Rounds) * pageSize
	var fill report.Fill
	if in.report.Fill != nil {
		fill = *in.report.Fill
	}
	w.Tracker = append(w.Tracker, in.report.Tracker)
	w.Rounds = append(w.Rounds, in.report.Rounds)
	w.FillMS = append(w.FillMS, fill.MS)
	w.FillFaults = append(w.FillFaults, fill.Faults)
	w.LeastWire = append(w.LeastWire, in.memory.zstd+dirty)
	w.UniqueZstd = append(w.UniqueZstd, in.memory.zstd)
	w.DirtyBytes = append(w.DirtyBytes, dirty)
	w.Source = append(w.Source, in.src)
	w.Destination = append(w.Destination, in.dst)
}

// laterPages are those of the rounds after the first that the destination did not have yet.
func laterPages(rounds []report.Round) int64 {
	var pages int64
	for _, r := range rounds[min(1, len(rounds)):] {
		pages += r.Pages - r.Zero - r.Unchanged - r.Same
	}
	return pages
}

// A host is the machine that was measured on, and the programs.
type host struct {
	When      time.Time `json:"when"`
	CPU       string    `json:"cpu"`
	CPUs      int       `json:"cpus"`
	MemoryMiB uint64    `json:"memory_mib"`
	Kernel    string    `json:"kernel"`
	CRIU      string    `json:"criu"`
	Runc      string    `json:"runc"`
	Engine    string    `json:"containerd"`
	Podman    string    `json:"podman,omitempty"`
	Migrate   string    `json:"migrate"`
}

// describe asks; what does not answer stays empty.
func (l *lab) describe(ctx context.Context) host {
	h := host{When: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU(), CPU: cpuModel()}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.MemoryMiB = uint64(info.Totalram) * uint64(info.Unit) >> 20
	}
	for to, argv := range map[*string][]string{
		&h.CRIU: {"criu", "--version"}, &h.Runc: {"runc", "--version"},
		&h.Engine: {"containerd", "--version"}, &h.Migrate: {"migrate", "--version"}, &h.Podman: {"podman", "--version"},
	} {
		if out, err := run(ctx, l.a, argv...); err == nil {
			*to, _, _ = strings.Cut(strings.TrimSpace(out), "\n")
		}
	}
	return h
}

func cpuModel() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	_, after, _ := strings.Cut(string(text), "model name")
	line, _, _ := strings.Cut(after, "\n")
	return strings.Trim(line, "\t :")
}

// add takes in a round: the samples of those tools that took part.
func (r *results) add(l *lab, mib int, samples map[string]sample) {
	for _, t := range r.used {
		s, ok := samples[t.name()]
		if !ok {
			continue
		}
		w := r.row(t.name(), mib)
		if w == nil {
			w = &row{Tool: t.name(), Mode: t.mode(), MemoryMiB: mib, DirtyPages: dirtyPages(mib, l.dirty), LinkMbit: l.linkMbit,
				Network: l.network, FloorMS: []float64{}, StepsMS: map[string][]float64{}}
			r.Rows = append(r.Rows, w)
		}
		w.add(s)
		if f, ok := samples[toolFloor]; ok {
			w.FloorMS = append(w.FloorMS, f.downtime)
		}
	}
}

func (w *row) add(s sample) {
	w.DowntimeMS = append(w.DowntimeMS, s.downtime)
	w.TotalMS = append(w.TotalMS, s.total)
	w.WireBytes = append(w.WireBytes, s.wire)
	w.GapMS = append(w.GapMS, s.gap)
	for _, st := range s.steps {
		if _, known := w.StepsMS[st.name]; !known {
			w.order = append(w.order, st.name)
		}
		w.StepsMS[st.name] = append(w.StepsMS[st.name], st.ms)
	}
	if s.inside == nil {
		return
	}
	if w.Inside == nil {
		w.Inside = &insideRow{}
	}
	w.Inside.add(s.inside)
}

// row finds one, or nil.
func (r *results) row(tool string, mib int) *row {
	i := slices.IndexFunc(r.Rows, func(w *row) bool { return w.Tool == tool && w.MemoryMiB == mib })
	if i < 0 {
		return nil
	}
	return r.Rows[i]
}

func (r *results) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}
