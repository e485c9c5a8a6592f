package scenarios

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"migrate/internal/report"
	"migrate/testbed"
)

var lastPort atomic.Int32

func init() { lastPort.Store(7700) }

// An agent is a destination agent of one test, with directories of its own.
type agent struct {
	*process
	host *testbed.Host
	dir  string
	port int
	args []string
}

// startAgent starts a destination agent on a free port.
func startAgent(t *testing.T, h *testbed.Host, flags ...string) *agent {
	t.Helper()
	a := &agent{host: h, port: int(lastPort.Add(1))}
	a.dir = fmt.Sprintf("/run/scn/recv-%d", a.port)
	a.args = append([]string{"migrate", "recv", "--verbose", "--listen", a.listen(), "--state-dir", a.dir + "/state",
		"--run-dir", a.dir + "/run", "--log-dir", a.dir + "/log"}, flags...)
	a.start(t)
	return a
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	a.process = start(t, a.host, a.args...)
	eventually(t, soon, "the destination agent listens", func() bool {
		if a.ended() {
			t.Fatalf("the destination agent ended:\n%s", a.stderr.String())
		}
		return strings.Contains(a.stdout.String(), "fingerprint ")
	})
}

// listen is the address as the agent's command line has it, where faults find it.
func (a *agent) listen() string { return fmt.Sprintf(":%d", a.port) }

// addr is the destination as a source names it.
func (a *agent) addr() string { return fmt.Sprintf("%s:%d", a.host.Name, a.port) }

func (a *agent) fingerprint() string {
	_, after, _ := strings.Cut(a.stdout.String(), "fingerprint ")
	return strings.TrimSpace(after)
}

func (a *agent) token(t *testing.T) string {
	t.Helper()
	out, err := a.host.Command(t.Context(), "migrate", "enroll", "--state-dir", a.dir+"/state").Output()
	if err != nil {
		t.Fatalf("enroll: %v", err)
	}
	return strings.TrimSpace(string(out))
}

// A migration is a `migrate send` under way.
type migration struct {
	*process
	from *testbed.Host
	dir  string
}

// sendDir has the source's directories: one for each container, so that what is left there has one cause.
func sendDir(id string) string { return "/run/scn/send-" + id }

// send starts a migration to an agent, with a new enrolment token.
func send(t *testing.T, from *testbed.Host, id string, to *agent, flags ...string) *migration {
	t.Helper()
	return sendTo(t, from, id, to.addr(), append([]string{"--token", to.token(t)}, flags...)...)
}

func sendTo(t *testing.T, from *testbed.Host, id, dest string, flags ...string) *migration {
	t.Helper()
	dir := sendDir(id)
	argv := []string{"migrate", "send", id, dest, "--state-dir", dir + "/state", "--run-dir", dir + "/run", "--log-dir", dir + "/log"}
	m := &migration{start(t, from, append(argv, flags...)...), from, dir}
	return m
}

var phaseEnd = regexp.MustCompile(`(?m)^([a-z]+) +done in`)

// phasesDone lists the phases that are over, as the progress lines say.
func (m *migration) phasesDone() []string {
	var done []string
	for _, f := range phaseEnd.FindAllStringSubmatch(m.stderr.String(), -1) {
		done = append(done, f[1])
	}
	return done
}

// isPast tells whether the phase is over.
func (m *migration) isPast(phase string) bool {
	for _, p := range m.phasesDone() {
		if p == phase {
			return true
		}
	}
	return false
}

// moved waits for success and returns the report, which takes --json.
func (m *migration) moved(t *testing.T) *report.Report {
	t.Helper()
	if code := m.wait(t, later); code != 0 {
		t.Fatalf("%s: exit status %d\n%s", m.name, code, clip(m.stderr.String()))
	}
	return m.report(t)
}

func (m *migration) report(t *testing.T) *report.Report {
	t.Helper()
	var rep report.Report
	if err := json.Unmarshal([]byte(m.stdout.String()), &rep); err != nil {
		t.Fatalf("%s: the report is no JSON: %v\n%s", m.name, err, m.stdout.String())
	}
	return &rep
}

// failed waits for a failure and checks its exit status and that its text says what, where, why and what to do, and that
// each of the words is in it.
func (m *migration) failed(t *testing.T, code int, words ...string) string {
	t.Helper()
	if got := m.wait(t, later); got != code {
		t.Errorf("exit status %d, want %d\n%s", got, code, clip(m.stderr.String()))
	}
	text := m.stderr.String()
	if at := strings.Index(text, "error: "); at >= 0 {
		text = text[at:]
	}
	for _, word := range append([]string{"error: ", "where: ", "why: ", "remedy: "}, words...) {
		if !strings.Contains(text, word) {
			t.Errorf("the error does not say %q:\n%s", word, clip(text))
		}
	}
	return text
}

// criuLog checks that the error names a log of CRIU's that is there.
func criuLog(t *testing.T, h *testbed.Host, text string) {
	t.Helper()
	_, after, found := strings.Cut(text, "  log: ")
	path, _, _ := strings.Cut(after, "\n")
	if !found {
		t.Errorf("the error names no log of CRIU's:\n%s", text)
		return
	}
	if _, err := os.Stat(h.Path(filepath.Clean(path))); err != nil {
		t.Errorf("the log that the error names: %v", err)
	}
}

// logCRIU has CRIU's logs of a migration under way shown if the test fails. They are open until then, since a migration
// takes its stage away.
func logCRIU(t *testing.T, h *testbed.Host, dir string) {
	t.Helper()
	logs, _ := filepath.Glob(h.Path(dir + "/run/*/work/*.log"))
	for _, l := range logs {
		f, err := os.Open(l)
		if err != nil {
			continue
		}
		t.Cleanup(func() {
			defer f.Close()
			if text, err := io.ReadAll(f); err == nil && t.Failed() {
				t.Logf("%s: %s:\n%s", h.Name, filepath.Base(l), text)
			}
		})
	}
}
