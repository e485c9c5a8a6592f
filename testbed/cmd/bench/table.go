package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// median of runs; 0 without any.
func median[T int64 | float64](runs []T) float64 {
	if len(runs) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(runs))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return float64(sorted[mid])
	}
	return (float64(sorted[mid-1]) + float64(sorted[mid])) / 2
}

// sizes in the order in which they were measured.
func (r *results) sizes() []int {
	var sizes []int
	for _, w := range r.Rows {
		if !slices.Contains(sizes, w.MemoryMiB) {
			sizes = append(sizes, w.MemoryMiB)
		}
	}
	return sizes
}

// printTable shows medians, and how they compare with the targets.
func printTable(out io.Writer, r *results) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.Rows) > 0 {
		fmt.Fprintln(w, "memory\ttool\tn\tdowntime ms\t(min–max)\tgap ms\ttotal ms\twire MiB\t÷ floor\t÷ ours\t")
	}
	for _, mib := range r.sizes() {
		for _, name := range toolNames {
			if row := r.row(name, mib); row != nil {
				r.printRow(w, row)
			}
		}
	}
	_ = w.Flush() // to the terminal
	if len(r.Rows) > 0 {
		r.printSteps(out)
		r.printInside(out)
	}
	r.printLink(out)
	r.printLoad(out)
	r.printGap(out)
	r.printPost(out)
	r.printCheck(out)
	r.printPostgres(out)
	r.printDocker(out)
	r.printTargets(out)
}

func (r *results) printRow(w io.Writer, row *row) {
	fmt.Fprintf(w, "%d MiB\t%s\t%d\t%.0f\t(%.0f–%.0f)\t%.0f\t%.0f\t%.1f\t%s\t%s\t\n",
		row.MemoryMiB, row.Tool, len(row.DowntimeMS), median(row.DowntimeMS), slices.Min(row.DowntimeMS), slices.Max(row.DowntimeMS),
		median(row.GapMS), median(row.TotalMS), median(row.WireBytes)/(1<<20),
		r.times(row, toolFloor), r.times(row, toolMigrate))
}

// ratio of a tool's median downtime to another's at a size.
func (r *results) ratio(tool, to string, mib int) (float64, bool) {
	a, b := r.row(tool, mib), r.row(to, mib)
	if a == nil || b == nil {
		return 0, false
	}
	return median(a.DowntimeMS) / median(b.DowntimeMS), true
}

func (r *results) times(row *row, to string) string {
	ratio, ok := r.ratio(row.Tool, to, row.MemoryMiB)
	if !ok {
		return "–"
	}
	return fmt.Sprintf("%.2f", ratio)
}

// printSteps shows where each tool's time went.
func (r *results) printSteps(out io.Writer) {
	fmt.Fprintln(out, "\nmedian of each step, ms:")
	for _, mib := range r.sizes() {
		for _, name := range toolNames {
			row := r.row(name, mib)
			if row == nil {
				continue
			}
			fmt.Fprintf(out, "  %4d MiB  %-8s %s\n", mib, name, row.medianSteps())
		}
	}
}

func (w *row) medianSteps() string {
	var parts []string
	for _, step := range w.order {
		parts = append(parts, fmt.Sprintf("%s %.0f", step, median(w.StepsMS[step])))
	}
	return strings.Join(parts, ", ")
}

// printInside shows the rounds of the run with the median downtime, and medians of the rest.
func (r *results) printInside(out io.Writer) {
	fmt.Fprintln(out, "\nmemory of the moves by "+toolMigrate+", of the run with the median downtime:")
	for _, mib := range r.sizes() {
		w := r.row(toolMigrate, mib)
		if w == nil || w.Inside == nil {
			continue
		}
		in, i := w.Inside, medianIndex(w.DowntimeMS)
		fmt.Fprintf(out, "  %4d MiB  tracker %s; sent %.1f MiB, at the least %.1f; agents at most %.0f MiB at the source, %.0f at the destination; filled after %.0f ms, %d pages waited for\n",
			mib, wordOr(in.Tracker[i], "none"), mebi(w.WireBytes[i]), mebi(in.LeastWire[i]), mebi(in.Source[i]), mebi(in.Destination[i]), in.FillMS[i], in.FillFaults[i])
		for n, round := range in.Rounds[i] {
			fmt.Fprintf(out, "            round %d%s: %d pages (%d zero, %d unchanged, %d same, %d delta), %.1f MiB in %.0f ms; %s\n",
				n+1, frozen(round.Frozen), round.Pages, round.Zero, round.Unchanged, round.Same, round.Delta, mebi(round.Wire), round.MS,
				wordOr(round.Decision, "no more"))
		}
	}
}

// medianIndex is where the median of runs stands, the lower one of two.
func medianIndex(runs []float64) int {
	return slices.Index(runs, slices.Sorted(slices.Values(runs))[(len(runs)-1)/2])
}

func mebi(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func wordOr(word, fallback string) string {
	if word == "" {
		return fallback
	}
	return word
}

func frozen(is bool) string {
	if is {
		return ", frozen"
	}
	return ""
}

func (r *results) printLink(out io.Writer) {
	for _, w := range r.Link {
		fmt.Fprintf(out, "\nlink of %d Mbit/s, %d MiB that do not compress, n %d: first round %.0f Mbit/s, iperf3 %.0f Mbit/s, in pairs %.2f\n",
			w.LinkMbit, w.MemoryMiB, len(w.RoundMbit), median(w.RoundMbit), median(w.IperfMbit), w.ratio())
	}
}

func (r *results) printLoad(out io.Writer) {
	if w := r.Load; w != nil {
		fmt.Fprintf(out, "\nredis under redis-benchmark with %d connections, n %d: %.0f commands/s before, %.0f during %.0f ms of copying, in pairs %.2f\n",
			w.Clients, len(w.BeforePerSec), median(w.BeforePerSec), median(w.DuringPerSec), median(w.PrecopyMS), w.ratio())
	}
}
