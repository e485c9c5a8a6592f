package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"migrate/internal/report"
	"migrate/internal/storage"
)

// summary renders the report of a migration for people.
func summary(r *report.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "moved %s to %s", r.Container, r.Destination)
	if r.Name != "" && r.Name != r.Container {
		fmt.Fprintf(&b, " as %s", r.Name)
	}
	if r.Pid != 0 {
		fmt.Fprintf(&b, ", pid %d there", r.Pid)
	}
	if r.Connections > 0 {
		fmt.Fprintf(&b, ", %s", connections(r))
	}
	b.WriteString("\n")
	fmt.Fprintf(&b, "  downtime %10s   %s\n", spanMS(r.DowntimeMS), parts(r.Downtime))
	fmt.Fprintf(&b, "  total    %10s   %s\n", spanMS(r.TotalMS), shares(r.Phases))
	b.WriteString(rounds(r))
	b.WriteString(fetched(r))
	b.WriteString(mounted(r))
	for _, p := range r.Ended {
		fmt.Fprintf(&b, "  %-8s %10s   %v\n", "session", "ended", p)
	}
	if len(r.Addresses) > 0 {
		fmt.Fprintf(&b, "  %-8s %10s   %s\n", "address", "new", strings.Join(r.Addresses, ", "))
	}
	fmt.Fprintf(&b, "  %-8s %10s   %10s\n", "", "content", "sent")
	for _, v := range []struct {
		name string
		report.Volume
	}{{"memory", r.Memory}, {"files", r.Files}, {"image", r.Image}, {"volumes", r.Volumes}} {
		fmt.Fprintf(&b, "  %-8s %10s   %10s%s\n", v.name, size(v.Raw), size(v.Wire), percent(v.Volume))
	}
	fmt.Fprintf(&b, "  %-8s %10s   %10s\n", "all", size(r.Memory.Raw+r.Files.Raw+r.Image.Raw+r.Volumes.Raw), size(r.WireBytes))
	return b.String()
}

// mounted says what became of the bind mounts.
func mounted(r *report.Report) string {
	var b strings.Builder
	for _, s := range r.Storage {
		if s.How == string(storage.Memory) {
			continue // as it should be
		}
		name := s.Path
		if s.Name != "" {
			name = fmt.Sprintf("volume %s (%s)", s.Name, s.Path)
		}
		fmt.Fprintf(&b, "  %-8s %10s   %s at %s\n", "mount", s.How, name, s.Mount)
	}
	return b.String()
}

// rounds says how memory was copied, if it was copied in rounds.
func rounds(r *report.Report) string {
	if len(r.Rounds) == 0 {
		return ""
	}
	running, text := 0, ""
	for _, x := range r.Rounds {
		if !x.Frozen {
			running++
		}
	}
	if r.Fill != nil {
		text = fmt.Sprintf("; all in place %s after the resume, %d pages waited for", spanMS(r.Fill.MS), r.Fill.Faults)
	}
	if r.Verified > 0 {
		text += fmt.Sprintf("; %d pages compared, all equal", r.Verified)
	}
	return fmt.Sprintf("  %-8s %10d   while it ran, found by %s%s\n", "rounds", running, r.Tracker, text)
}

// fetched says how memory that had stayed here came over.
func fetched(r *report.Report) string {
	f := r.Fetch
	if f == nil {
		return ""
	}
	text := fmt.Sprintf("until %s that had stayed here had come; %d pages waited for", size(f.Pages*pageSize), f.Asked)
	if f.Asked > 0 {
		text += fmt.Sprintf(", %s each, 99%% of them within %s", spanMS(f.MedianMS), spanMS(f.P99MS))
	}
	if f.Reconnects > 0 {
		text += fmt.Sprintf("; reconnected %d times", f.Reconnects)
	}
	return fmt.Sprintf("  degraded %10s   %s\n", spanMS(f.DegradedMS), text)
}

const pageSize = 4096

func connections(r *report.Report) string {
	verb := "kept"
	if r.TCP == "close" {
		verb = "closed"
	}
	if r.Connections == 1 {
		return "1 connection " + verb
	}
	return fmt.Sprintf("%d connections %s", r.Connections, verb)
}

func parts(list []report.Part) string {
	var out []string
	for _, p := range list {
		out = append(out, p.Name+" "+spanMS(p.MS))
	}
	return strings.Join(out, ", ")
}

// shares renders each phase's part of the total.
func shares(list []report.Phase) string {
	var sum float64
	for _, p := range list {
		sum += p.MS
	}
	var out []string
	for _, p := range list {
		out = append(out, fmt.Sprintf("%s %s (%.0f%%)", p.Name, spanMS(p.MS), 100*p.MS/max(sum, 1e-9)))
	}
	return strings.Join(out, ", ")
}

func percent(v report.Volume) string {
	if v.Raw == 0 {
		return ""
	}
	return fmt.Sprintf("   %d%%", (100*v.Wire+v.Raw/2)/v.Raw)
}

// printJSON writes the report as the one object that --json promises.
// Lists are never null.
func printJSON(w io.Writer, rep *report.Report) error {
	r := *rep
	if r.Phases == nil {
		r.Phases = []report.Phase{}
	}
	if r.Downtime == nil {
		r.Downtime = []report.Part{}
	}
	return encodeJSON(w, r)
}

// encodeJSON prints one object for people and programs.
func encodeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	return nil
}
