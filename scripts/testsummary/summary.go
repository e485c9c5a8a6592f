package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// event is a line of go test -json (cmd/test2json).
type event struct {
	Action     string
	Package    string
	ImportPath string // of what is built
	Test       string
	Elapsed    float64
	Output     string
}

// name tells tests of all packages apart; Test is empty for the package itself.
type name struct{ pkg, test string }

type summary struct {
	out                     io.Writer
	output                  map[name]*strings.Builder
	built                   map[string]*strings.Builder // what compilers said, by import path
	passed, failed, skipped int
	skips                   []string
	failedTests             map[string]bool // packages in which a test failed
}

func newSummary(out io.Writer) *summary {
	return &summary{out: out, output: map[name]*strings.Builder{}, built: map[string]*strings.Builder{}, failedTests: map[string]bool{}}
}

func (s *summary) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				s.take(e)
			} else {
				fmt.Fprintf(s.out, "%s", line) // not from the tests, and worth seeing
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read go test: %w", err)
		}
	}
}

func (s *summary) take(e event) {
	n := name{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		text(s.built, e.ImportPath).WriteString(e.Output)
	case "build-fail":
		fmt.Fprintf(s.out, "FAIL build of %s\n%s", e.ImportPath, text(s.built, e.ImportPath))
	case "output":
		text(s.output, n).WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			s.endPackage(e)
		} else {
			s.endTest(e)
		}
		delete(s.output, n)
	}
}

func text[K comparable](m map[K]*strings.Builder, k K) *strings.Builder {
	if m[k] == nil {
		m[k] = &strings.Builder{}
	}
	return m[k]
}

func (s *summary) endTest(e event) {
	out := text(s.output, name{e.Package, e.Test}).String()
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
		s.failedTests[e.Package] = true
		fmt.Fprintf(s.out, "FAIL %s %s (%.1f s)\n%s", e.Package, e.Test, e.Elapsed, out)
	case "skip":
		s.skipped++
		s.skips = append(s.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(out)))
	}
}

// endPackage shows what a package said besides its tests when it failed without one that did: it was not built, ended
// early, or left something behind.
func (s *summary) endPackage(e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(s.out, "ok   %s (%.1f s)\n", e.Package, e.Elapsed)
	case "fail":
		fmt.Fprintf(s.out, "FAIL %s (%.1f s)\n%s", e.Package, e.Elapsed, text(s.output, name{e.Package, ""}))
		if !s.failedTests[e.Package] {
			s.failed++
			s.showUnfinished(e.Package)
		}
	}
}

// showUnfinished shows the output of tests that were running when their package ended.
func (s *summary) showUnfinished(pkg string) {
	for n, out := range s.output {
		if n.pkg == pkg && n.test != "" {
			fmt.Fprintf(s.out, "UNFINISHED %s %s\n%s", n.pkg, n.test, out)
		}
	}
}

// reason is what a test said when it skipped itself, without what go test puts around it.
func reason(out string) string {
	var said []string
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

func (s *summary) good(strict bool) bool {
	return s.failed == 0 && s.passed > 0 && !(strict && s.skipped > 0)
}

func (s *summary) close(strict bool) {
	for _, t := range s.skips {
		fmt.Fprintf(s.out, "SKIP %s\n", t)
	}
	if strict && s.skipped > 0 {
		fmt.Fprintln(s.out, "with CI=true no test may be skipped")
	}
	fmt.Fprintf(s.out, "%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
}
