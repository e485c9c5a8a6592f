package matrix

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// tableLines are those between which a page has the table of an engine.
func tableLines(engine string) (begin, end string) {
	return "<!-- table of " + engine + ": begin -->", "<!-- table of " + engine + ": end -->"
}

// Table is Markdown: a line for each result.
func Table(results []Result) string {
	var b strings.Builder
	b.WriteString("| workload | engine | result | stood still | what goes on while it moves, and what is checked |\n|---|---|---|---:|---|\n")
	for _, r := range results {
		about := r.About
		if r.Reason != "" {
			about += ". **" + strings.ReplaceAll(firstLine(r.Reason), "|", `\|`) + "**"
		}
		result, still := r.Result, ""
		if r.Link != "" {
			result = "[" + r.Result + "](" + r.Link + ")"
		}
		if len(r.Hops) > 0 {
			still = fmt.Sprintf("%.0f ms", r.downtime())
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.Workload, r.Engine, result, still, about)
	}
	return b.String()
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// errNoTable is returned for a page without a place for the table.
var errNoTable = errors.New("the page has no place for the table")

// Replace puts the table of results, all of one engine, into a page. The tables of other engines stay.
func Replace(path string, results []Result) error {
	if len(results) == 0 {
		return errNoResults
	}
	tableBegin, tableEnd := tableLines(results[0].Engine)
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	head, rest, begins := strings.Cut(string(text), tableBegin)
	_, foot, ends := strings.Cut(rest, tableEnd)
	if !begins || !ends {
		return fmt.Errorf("%s: %w: want the lines %s and %s", path, errNoTable, tableBegin, tableEnd)
	}
	page := head + tableBegin + "\n" + Table(results) + tableEnd + foot
	if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}
