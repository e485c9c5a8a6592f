package matrix

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The results of a row.
const (
	Moved   = "moved"   // there and back, and all checks were content
	Refused = "refused" // before the freeze, for the expected reason, and it goes on
	Failed  = "failed"
)

// A Result is what one run of a row came to.
type Result struct {
	Workload string  `json:"workload"`
	Engine   string  `json:"engine"`
	Result   string  `json:"result"`
	Reason   string  `json:"reason,omitempty"` // of a refusal or failure
	Link     string  `json:"link,omitempty"`   // to the issue about what is refused
	About    string  `json:"about"`
	Hops     []Hop   `json:"hops,omitempty"`
	Seconds  float64 `json:"seconds"`
	Run      int     `json:"run,omitempty"` // which one, from 1, when rows are repeated

	barred bool // the engine could not have moved any such container
}

// A Hop is one move. Times are milliseconds.
type Hop struct {
	From       string  `json:"from"`
	To         string  `json:"to"`
	DowntimeMS float64 `json:"downtime_ms"`
	TotalMS    float64 `json:"total_ms"`
}

func (r *Result) conclude(row Row, err error) {
	switch {
	case err != nil:
		r.Result, r.Reason = Failed, err.Error()
	case row.Refused != nil:
		r.Result, r.Link = Refused, row.Refused.Link
	default:
		r.Result = Moved
	}
}

// downtime is the longest of the row's moves, in milliseconds.
func (r Result) downtime() float64 {
	longest := 0.0
	for _, h := range r.Hops {
		longest = max(longest, h.DowntimeMS)
	}
	return longest
}

// Line tells a result to a person who watches.
func (r Result) Line() string {
	text := fmt.Sprintf("%-8s %-22s %-11s %5.1f s", r.Result, r.Workload, r.Engine, r.Seconds)
	if r.Run > 0 {
		text += fmt.Sprintf("  run %d", r.Run)
	}
	for _, h := range r.Hops {
		text += fmt.Sprintf("  %s→%s %.0f ms down", h.From, h.To, h.DowntimeMS)
	}
	if r.Reason != "" {
		text += "  " + r.Reason
	}
	return text
}

// Write writes results as the list that is the file's whole content.
func Write(path string, results []Result) error {
	text, err := json.MarshalIndent(results, "", "  ")
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

// errNoResults is returned for a run without any.
var errNoResults = errors.New("no workload was moved")

// maxRefused is how many rows may be refused, beside those that are for the engine's sake.
const maxRefused = 6

// Verdict is an error if a row failed, or too many are refused.
func Verdict(results []Result) error {
	var failed, refused []string
	for _, r := range results {
		switch {
		case r.Result == Failed && !slices.Contains(failed, r.Workload):
			failed = append(failed, r.Workload)
		case r.Result == Refused && !r.barred && !slices.Contains(refused, r.Workload):
			refused = append(refused, r.Workload)
		}
	}
	switch {
	case len(results) == 0:
		return errNoResults
	case len(failed) > 0:
		return fmt.Errorf("failed: %s", strings.Join(failed, ", "))
	case len(refused) > maxRefused:
		return fmt.Errorf("%d workloads are refused, more than %d: %s", len(refused), maxRefused, strings.Join(refused, ", "))
	}
	return nil
}
