package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// A rule forbids imports. Patterns are import paths without the module's name; one that ends with /... stands for a
// package and all below it.
type rule struct {
	from   []string
	not    []string
	except []string
	reason string
}

var rules = []rule{
	{
		from: []string{"migrate/..."}, not: []string{"restore/..."},
		reason: "the two agents share nothing but the protocol, so that either can be replaced or be of another version",
	},
	{
		from: []string{"restore/..."}, not: []string{"migrate/..."},
		reason: "the two agents share nothing but the protocol, so that either can be replaced or be of another version",
	},
	{
		from: []string{"migrate/...", "restore/..."}, not: []string{"internal/engine/..."}, except: []string{"internal/engine"},
		reason: "agents know the Engine interface only, so that hand-over tests run on the fake engine and new engines need no change here",
	},
	{
		from: []string{"internal/engine/containerd/..."}, not: []string{"internal/engine/fake/...", "internal/engine/docker/..."},
		reason: "engines do not know each other, so that each can be left out",
	},
	{
		from: []string{"internal/engine/docker/..."}, not: []string{"internal/engine/fake/...", "internal/engine/containerd/..."},
		reason: "engines do not know each other, so that each can be left out",
	},
	{
		from: []string{"internal/engine/fake/..."}, not: []string{"internal/engine/containerd/...", "internal/engine/docker/..."},
		reason: "engines do not know each other; and the fake one needs no daemon",
	},
	{
		from: []string{"internal/engine"}, not: []string{"internal/..."},
		reason: "it is the vocabulary of agents and engines, and plain",
	},
	{
		from: []string{"migrate/...", "restore/...", "internal/cli/...", "internal/engine/..."}, not: []string{"internal/shim/..."}, except: []string{"internal/shim/sign"},
		reason: "the shim is a program of its own, and large",
	},
	{
		from: []string{"internal/shim/..."}, not: []string{"internal/engine/...", "migrate/...", "restore/..."},
		reason: "the shim knows of no migration",
	},
	{
		from: []string{"transfer/...", "layers/..."}, not: []string{"internal/...", "migrate/...", "restore/...", "testbed/..."}, except: []string{"layers/layertest"},
		reason: "sessions and streams know nothing of containers, CRIU or engines, so that they can be tested, fuzzed and used alone",
	},
	{
		from: []string{"transfer/..."}, not: []string{"layers/..."},
		reason: "a session does not know what it carries",
	},
	{
		from: []string{"internal/handover"}, not: []string{"..."},
		reason: "who owns a container is decided by a state machine free of I/O, which can be tested exhaustively",
	},
	{
		from: []string{"migrate/...", "restore/...", "transfer/...", "layers/...", "internal/..."}, not: []string{"testbed/..."},
		reason: "the program does not depend on what tests it",
	},
	{
		from: []string{"migrate/...", "restore/...", "transfer/...", "layers/...", "internal/...", "testbed/..."}, not: []string{"internal/cli/..."},
		reason: "printing, flags and exit codes stay in the command line; everything else can be used without it",
	},
}

func TestImports(t *testing.T) {
	for pkg, imports := range listImports(t) {
		for _, r := range rules {
			if !match(r.from, pkg) {
				continue
			}
			for _, i := range imports {
				if i != pkg && match(r.not, i) && !match(r.except, i) {
					t.Errorf("%s imports %s: %s", pkg, i, r.reason)
				}
			}
		}
	}
}

// A rule whose packages are gone would never fail.
func TestRulesHaveSubjects(t *testing.T) {
	all := listImports(t)
	for _, r := range rules {
		for _, pattern := range r.from {
			found := false
			for pkg := range all {
				found = found || match([]string{pattern}, pkg)
			}
			if !found {
				t.Errorf("no package matches %q", pattern)
			}
		}
	}
}

// listImports gives the imports within the module, of the programs themselves and not of their tests.
func listImports(t *testing.T) map[string][]string {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "migrate/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	all := map[string][]string{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("read go list: %v", err)
		}
		var own []string
		for _, i := range p.Imports {
			if name, ok := strings.CutPrefix(i, "migrate/"); ok {
				own = append(own, name)
			}
		}
		all[strings.TrimPrefix(p.ImportPath, "migrate/")] = own
	}
}

func match(patterns []string, pkg string) bool {
	for _, p := range patterns {
		base, tree := strings.CutSuffix(p, "...")
		base = strings.TrimSuffix(base, "/")
		switch {
		case pkg == base, tree && base == "", tree && strings.HasPrefix(pkg, base+"/"):
			return true
		}
	}
	return false
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, pkg string
		want         bool
	}{
		{"layers/...", "layers", true}, {"layers/...", "layers/layertest", true}, {"layers/...", "layersx", false},
		{"internal/engine", "internal/engine/fake", false}, {"...", "main", true},
	} {
		if got := match([]string{tt.pattern}, tt.pkg); got != tt.want {
			t.Errorf("match(%q, %q) = %v", tt.pattern, tt.pkg, got)
		}
	}
}
