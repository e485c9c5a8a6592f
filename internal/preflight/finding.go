package preflight

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says what a finding means for a migration.
type Severity string

// The severities, worst first.
const (
	Blocks   Severity = "blocks"   // the migration would fail, or damage the container
	Degrades Severity = "degrades" // it moves, and loses something or takes longer
	Note     Severity = "note"     // good to know
)

var severities = []Severity{Blocks, Degrades, Note}

// The sides of a migration.
const (
	Source      = "source"
	Destination = "destination"
)

// StillRunning is what every finding about a container says of it: a check touches nothing.
const StillRunning = "the container is still running"

// Thing is what a finding is about. Fields that do not apply are zero; FD is nil then, since 0 is a descriptor.
type Thing struct {
	Pid    int    `json:"pid,omitempty"`  // on the host
	VPid   int    `json:"vpid,omitempty"` // in the container
	Comm   string `json:"comm,omitempty"` // the process's name
	FD     *int   `json:"fd,omitempty"`
	Path   string `json:"path,omitempty"`
	Socket string `json:"socket,omitempty"`
}

func (t Thing) String() string {
	var parts []string
	if t.Pid != 0 {
		s := fmt.Sprintf("process %d", t.Pid)
		if t.Comm != "" {
			s += " (" + t.Comm + ")"
		}
		if t.VPid != 0 && t.VPid != t.Pid {
			s += fmt.Sprintf(", pid %d in the container", t.VPid)
		}
		parts = append(parts, s)
	}
	if t.FD != nil {
		parts = append(parts, fmt.Sprintf("descriptor %d", *t.FD))
	}
	for _, s := range []string{t.Path, t.Socket} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ", ")
}

// Finding is one thing that stands in the way, or is good to know. It travels as JSON: from the destination to the source, and
// to whoever asked for it.
type Finding struct {
	Code     string   `json:"code"` // of a Kind
	Severity Severity `json:"severity"`
	Side     string   `json:"side"`
	Thing    Thing    `json:"thing"`
	More     int      `json:"more,omitempty"` // further things like this one, which are not listed
	Reason   string   `json:"reason"`
	Remedy   string   `json:"remedy,omitempty"`
	Link     string   `json:"link,omitempty"`  // where CRIU's developers discuss it
	State    string   `json:"state,omitempty"` // StillRunning, unless it is about a host alone
}

// Text renders a finding as lines: severity, code and thing, then why, remedy and state.
func (f Finding) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", f.Severity, f.Code)
	if t := f.Thing.String(); t != "" {
		fmt.Fprintf(&b, ": %s", t)
	}
	if f.More > 0 {
		fmt.Fprintf(&b, ", and %d more", f.More)
	}
	b.WriteString("\n")
	for _, l := range []struct{ name, text string }{
		{"where", f.Side}, {"why", f.Reason}, {"remedy", f.Remedy}, {"see", f.Link}, {"state", f.State},
	} {
		if l.text != "" {
			fmt.Fprintf(&b, "  %s: %s\n", l.name, strings.ReplaceAll(l.text, "\n", "\n    "))
		}
	}
	return b.String()
}

// Blocking are the findings that stand in the way, without those whose code is to be ignored.
func Blocking(fs []Finding, ignore []string) (block []Finding) {
	for _, f := range fs {
		if f.Severity == Blocks && !slices.Contains(ignore, f.Code) {
			block = append(block, f)
		}
	}
	return block
}

// Sort puts what blocks first and keeps the order otherwise.
func Sort(fs []Finding) {
	slices.SortStableFunc(fs, func(a, b Finding) int {
		return cmp.Compare(slices.Index(severities, a.Severity), slices.Index(severities, b.Severity))
	})
}

// maxListed is how many findings of one kind are listed; a program with a thousand such sockets is told once.
const maxListed = 5

// list collects findings of one judgement.
type list struct {
	side  string
	state string
	all   []Finding
	count map[string]int
}

func newList(side, state string) *list {
	return &list{side: side, state: state, count: map[string]int{}}
}

// add notes a finding of the kind with this code. detail is what this one is about beyond the kind's reason, or "".
func (l *list) add(code string, t Thing, detail string) {
	if l.count[code]++; l.count[code] > maxListed {
		return
	}
	f := New(code, l.side, t, detail)
	f.State = l.state
	l.all = append(l.all, f)
}

// findings closes the list. What was not listed is counted at the last one of its kind that was.
func (l *list) findings() []Finding {
	for code, n := range l.count {
		if n <= maxListed {
			continue
		}
		for i := len(l.all) - 1; i >= 0; i-- {
			if l.all[i].Code == code {
				l.all[i].More = n - maxListed
				break
			}
		}
	}
	Sort(l.all)
	return l.all
}

// New makes a finding of a kind. The code must be in the table.
func New(code, side string, t Thing, detail string) Finding {
	k, ok := Lookup(code)
	if !ok {
		panic("preflight: no kind of finding has the code " + code)
	}
	f := Finding{Code: code, Severity: k.Severity, Side: side, Thing: t, Reason: k.Reason, Remedy: k.Remedy, Link: k.Link}
	if detail != "" {
		f.Reason += ": " + detail
	}
	return f
}
