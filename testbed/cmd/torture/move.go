package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"migrate/internal/fail"
	"migrate/internal/report"
)

// moveLimit is how long one move may take.
const moveLimit = 3 * time.Minute

// A move is one migration of a container from the site where it is to the other one.
type move struct {
	subject *subject
	combo   combo
	verify  bool // have the mover compare every page
	rep     *report.Report
	said    string // by migrate send on standard error
	own     int64  // pages that the program checked itself
}

// The kinds of failure.
const (
	kindStart     = "start"      // no container to be moved
	kindSend      = "send"       // the move did not succeed
	kindDiffers   = "pages"      // --verify found pages that differ
	kindNoCompare = "unverified" // --verify compared nothing
	kindSelf      = "self-check" // the program found wrong memory, or is gone
	kindOutput    = "output"     // lines are missing or there twice
	kindLeft      = "left"       // something is left behind
)

// make makes the move, checks everything, and notes it in the row.
func (m *move) make(ctx context.Context, r *row) *failure {
	from, to := m.subject.at, 1-m.subject.at
	for _, s := range m.subject.lab.sites {
		s.agent.Said.Take()
	}
	err := m.send(ctx, to)
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		m.subject.at = to
		r.moved(m)
	}
	if f := m.judge(ctx, r, err); f != nil {
		f.From, f.Verify, f.Seed = m.subject.lab.sites[from].Name, m.verify, m.subject.seed
		f.Send, f.Agent = m.said, m.subject.lab.sites[to].agent.Said.Take()
		return f
	}
	return nil
}

// judge checks the result. A program that has not been moved has to be whole too.
func (m *move) judge(ctx context.Context, r *row, err error) *failure {
	if err != nil {
		return m.judgeFailed(ctx, r, err)
	}
	if m.verify && m.rep.Verified <= 0 {
		return &failure{Kind: kindNoCompare, Text: "the report tells of no pages that were compared"}
	}
	if f := m.selfCheck(ctx, r); f != nil {
		return f
	}
	if err := m.subject.checkOutput(); err != nil {
		return &failure{Kind: kindOutput, Text: err.Error()}
	}
	if err := m.subject.checkLeft(ctx); err != nil && ctx.Err() == nil {
		return &failure{Kind: kindLeft, Text: err.Error()}
	}
	return nil
}

func (m *move) judgeFailed(ctx context.Context, r *row, err error) *failure {
	f := &failure{Kind: kindSend, Text: err.Error()}
	var fault *fail.Fault
	if errors.As(err, &fault) {
		if differ, compared, ok := pagesIn(fault.Why); ok {
			r.differing(differ, compared)
			f.Kind = kindDiffers
		}
	}
	if m.rep != nil && m.rep.Result != report.Stayed {
		f.Text += "; the report says the container is " + m.rep.Result + "; " + m.subject.words()
		return f
	}
	if own := m.selfCheck(ctx, r); own != nil {
		f.Text += "; and where it stayed: " + own.Text
	} else if err := m.subject.checkLeft(ctx); err != nil {
		f.Text += "; and where it stayed: " + err.Error()
	} else {
		f.Text += "; it runs on at host " + m.subject.site().Name + " and its memory is right there"
	}
	return f
}

func (m *move) selfCheck(ctx context.Context, r *row) *failure {
	answer, err := m.subject.verify(ctx)
	if err != nil {
		return &failure{Kind: kindSelf, Text: err.Error()}
	}
	m.own = answer.Pages
	r.selfVerified(answer.Pages)
	return nil
}

var pagesText = regexp.MustCompile(`(\d+) of (\d+) pages differ`)

// pagesIn reads how many pages differ off a fault's text.
func pagesIn(text string) (differ, compared int64, ok bool) {
	f := pagesText.FindStringSubmatch(text)
	if f == nil {
		return 0, 0, false
	}
	differ, err := strconv.ParseInt(f[1], 10, 64)
	compared, cerr := strconv.ParseInt(f[2], 10, 64)
	return differ, compared, err == nil && cerr == nil
}

func (m *move) args(to *site) []string {
	argv := []string{"migrate", "send", m.subject.id, to.Name, "--json", "--mode", "precopy", "--tracker", m.combo.Tracker}
	if m.combo.Way == wayEager {
		argv = append(argv, "--eager")
	}
	if m.verify {
		argv = append(argv, "--verify")
	}
	if to.agent.Token != "" {
		argv = append(argv, "--token", to.agent.Token)
	}
	return append(argv, m.subject.lab.sendArgs...)
}

// send runs the mover. A failure that the report tells of is a *fail.Fault.
func (m *move) send(ctx context.Context, to int) error {
	ctx, cancel := context.WithTimeout(ctx, moveLimit)
	defer cancel()
	target := m.subject.lab.sites[to]
	var stdout, stderr bytes.Buffer
	cmd := m.subject.site().Command(ctx, m.args(target)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	m.said = strings.TrimSpace(stderr.String())
	if ctx.Err() == context.DeadlineExceeded {
		return fmt.Errorf("the move did not end within %v", moveLimit)
	}
	var rep report.Report
	if jerr := json.Unmarshal(stdout.Bytes(), &rep); jerr != nil {
		return fmt.Errorf("there is no report: %w", errors.Join(err, jerr))
	}
	m.rep = &rep
	switch {
	case rep.Error != nil:
		return rep.Error
	case err != nil:
		return err
	case rep.Result != report.Moved:
		return fmt.Errorf("the report says %s", rep.Result)
	}
	target.agent.Token = ""
	return nil
}

// summary is a line for a person who watches.
func (m *move) summary(number int) string {
	how := "lazy path  "
	if m.verify {
		how = "compared   "
	} else if m.combo.Way == wayEager {
		how = "eager path "
	}
	text := fmt.Sprintf("%5d  %s  %s", number, m.combo, how)
	if m.rep == nil {
		return text
	}
	text += fmt.Sprintf("  %6.0f ms down %7.0f ms total %3d rounds  %7d compared %7d self-verified", m.rep.DowntimeMS, m.rep.TotalMS,
		len(m.rep.Rounds), m.rep.Verified, m.own)
	if m.rep.Fill != nil {
		text += fmt.Sprintf("  %5d faults of %d", m.rep.Fill.Faults, m.rep.Fill.Pages)
	}
	return text
}
