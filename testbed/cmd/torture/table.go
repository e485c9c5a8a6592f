package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// printTable shows a line for each combo, and the failures.
func printTable(out io.Writer, r *results) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "case\ttracker\tway\tmoves\tcompared\tunassisted\tpages compared\tdiffering\tself-verified\tpages\tfilled late\tfaults\tfailures")
	for _, row := range r.Rows {
		if row.Unavailable != "" {
			fmt.Fprintf(w, "%s\t%s\t%s\tCANNOT RUN HERE\n", row.Case, row.Tracker, row.Way)
			continue
		}
		printCounts(w, row.Case+"\t"+row.Tracker+"\t"+row.Way, row.counts, len(row.Failures))
	}
	for _, m := range r.Mix {
		printCounts(w, "all\t"+m.Tracker+"\t"+m.Way, m.counts, m.Failures)
	}
	printCounts(w, "total\t\t", r.Totals, r.Failures)
	if len(r.Faults) > 0 {
		fmt.Fprintln(w, "\nfault\tstruck\tmissed\toutcomes\texpected\tby hand\tself-verified\tmoved after")
	}
	for _, f := range r.Faults {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%d\t%d\t%d\n", f.Fault, f.Struck, f.Missed, f.outcomes(), strings.Join(f.Expected, " or "), f.ByHand, f.Verified, f.Followed)
	}
	_ = w.Flush() // to the terminal
	for _, note := range r.Notes {
		fmt.Fprintln(out, "note:", note)
	}
	for _, row := range r.Rows {
		for _, f := range row.Failures {
			fmt.Fprintf(out, "\nFAILURE (%s) %s, move %d, verify %v: %s\n", f.Kind, row.combo, f.Move, f.Verify, f.Text)
		}
	}
}

func printCounts(w io.Writer, name string, c counts, failures int) {
	fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", name, c.Migrations, c.Compared, c.Unassisted, c.PagesCompared, c.PagesDiffering,
		c.SelfVerified, c.SelfPages, c.FillPages, c.Faults, failures)
}
