package scenarios

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"migrate/testbed"
)

// An output is a container that counts, and where its lines end up.
type output struct {
	id     string
	client *process // that was attached from the start; nil: none
}

// counter is what the container runs: it prints a numbered line every so often.
var counter = []string{"workload", "server", "--listen=", "--memory-mib", "4"}

// start starts the counter with ctr and the flags.
func (o *output) start(t *testing.T, before []string, flags ...string) {
	t.Helper()
	t.Cleanup(func() { purge(t, o.id) })
	argv := slices.Concat([]string{"ctr", "run"}, flags, []string{"testbed/tools:latest", o.id}, counter)
	if before != nil {
		argv = append(before, strings.Join(argv, " "), "/dev/null")
	}
	if slices.Contains(flags, "--detach") {
		run(t, hostA, argv...)
		return
	}
	o.client = start(t, hostA, argv...)
	eventually(t, soon, "the container's client prints", func() bool { return len(ticksIn(o.client.stdout.String())) > 1 })
}

// ticksIn are the numbers of the whole lines in text.
func ticksIn(text string) (all []int) {
	for l := range strings.Lines(text) {
		f := strings.Fields(l)
		// a terminal echoes what script(1) makes of an empty input
		if !strings.HasSuffix(l, "\n") || len(f) != 3 || strings.TrimPrefix(f[0], "^@") != "tick" {
			continue
		}
		if n, err := strconv.Atoi(f[1]); err == nil {
			all = append(all, n)
		}
	}
	return all
}

// logged are the numbers in all logs of the container on a host: the file that it was started with and those of agents.
func (o *output) logged(h *testbed.Host) (all []int) {
	files, _ := filepath.Glob(h.Path("/run/scn/*/log/default-" + o.id + ".log"))
	for _, f := range append(files, h.Path("/var/log/"+o.id+".log")) {
		text, _ := os.ReadFile(f)
		all = append(all, ticksIn(string(text))...)
	}
	return all
}

// assertWhole checks that every line is there once, at h the last ones. More have other readers than the logs.
func (o *output) assertWhole(t *testing.T, h *testbed.Host, more ...*process) {
	t.Helper()
	before := len(o.logged(h))
	eventually(t, soon, "the output goes on at "+h.Name, func() bool { return len(o.logged(h)) > before+2 })
	all := slices.Concat(o.logged(hostB), o.logged(hostA))
	for _, p := range append(more, o.client) {
		if p != nil {
			all = append(all, ticksIn(p.stdout.String())...)
		}
	}
	slices.Sort(all)
	for i, n := range all {
		if n != i+1 {
			t.Fatalf("line %d of the output of %s has the number %d", i+1, o.id, n)
		}
	}
}

func (o *output) hop(t *testing.T, from *testbed.Host, to *agent) {
	t.Helper()
	send(t, from, o.id, to, "--json").moved(t)
	if got := status(t, to.host, o.id); got != "RUNNING" {
		t.Fatalf("the container is %q at %s", got, to.host.Name)
	}
}

// TestOutput moves containers there, back and there again, whose output goes to each of the places that there are. No line is
// lost, none is there twice.
func TestOutput(t *testing.T) {
	for _, test := range []struct {
		name   string
		before []string // wraps the command that starts it
		flags  []string
		attach bool // a client can attach at the destination
		silent bool
	}{
		{name: "file", flags: []string{"--detach", "--log-uri", "file:///var/log/out-file.log"}},
		{name: "logger", flags: []string{"--detach", "--log-uri", "binary:///bin/sh?-c=exec%205%3E%26-%3B%20exec%20cat%20%3C%263%20%3E%3E%2Fvar%2Flog%2Fout-logger.log"}},
		{name: "client", attach: true},
		{name: "terminal", before: []string{"script", "-qfc"}, flags: []string{"--tty"}, attach: true},
		{name: "nothing", flags: []string{"--detach", "--null-io"}, silent: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			there, back := startAgent(t, hostB, "--allow-logger", "/bin/sh"), startAgent(t, hostA, "--allow-logger", "/bin/sh")
			o := &output{id: "out-" + test.name}
			o.start(t, test.before, test.flags...)
			if test.silent {
				o.hop(t, hostA, there)
				o.hop(t, hostB, back)
				o.hop(t, hostA, there)
				return
			}
			o.hop(t, hostA, there)
			o.assertWhole(t, hostB)
			var attached []*process
			if test.attach {
				attached = append(attached, o.attach(t, hostB, test.before))
				o.assertWhole(t, hostB, attached...)
			}
			o.hop(t, hostB, back)
			o.assertWhole(t, hostA, attached...)
			o.hop(t, hostA, there)
			o.assertWhole(t, hostB, attached...)
		})
	}
}

// attach attaches a client at h for a few lines, and ends it.
func (o *output) attach(t *testing.T, h *testbed.Host, before []string) *process {
	t.Helper()
	argv := []string{"ctr", "tasks", "attach", o.id}
	if before != nil {
		argv = append(before, strings.Join(argv, " "), "/dev/null")
	}
	p := start(t, h, argv...)
	eventually(t, soon, "the attached client prints", func() bool { return len(ticksIn(p.stdout.String())) > 3 })
	// killed rather than asked: signals go to the container
	shell(t, h, `pkill -KILL -f "^ctr tasks attach $1\$"`, o.id)
	p.wait(t, soon)
	return p
}
