package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"migrate/internal/fail"
	"migrate/internal/report"
)

// mainEnv makes the test program be migrate.
const mainEnv = "MIGRATE_CLI_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		os.Exit(Main(os.Args))
	}
	os.Exit(m.Run())
}

// runTest runs a command line as a user without rights, and returns what it printed.
func runTest(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(append([]string{"migrate"}, args...), environment{in: strings.NewReader(""), out: &o, err: &e, euid: 1000})
	return code, o.String(), e.String()
}

func TestUsageErrors(t *testing.T) {
	const fp = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"
	for _, tt := range []struct {
		args string
		want string // in the text on standard error
	}{
		{"", "a command is missing"},
		{"fly", `unknown command "fly"`},
		{"--frob", "flag provided but not defined: -frob"},
		{"send", "CONTAINER is missing"},
		{"send redis", "DEST is missing"},
		{"send redis b c", `unexpected argument "c"`},
		{"send redis b --frob", "flag provided but not defined: -frob"},
		{"send redis b --streams 0", "--streams 0 is out of range"},
		{"send redis b --streams 17", "--streams 17 is out of range"},
		{"send redis b --streams many", `invalid value "many"`},
		{"send redis b --streams", "flag needs an argument: -streams"},
		{"send redis b --tcp keep", `--tcp "keep" is unknown`},
		{"send redis b --engine podman", `--engine "podman" is unknown`},
		{"recv --engine podman", `--engine "podman" is unknown`},
		{"send redis b --compress gzip", `--compress "gzip" is unknown`},
		{"send redis b --bandwidth 5Mb", "may mean bits or bytes"},
		{"send redis b --timeout soon", `invalid value "soon"`},
		{"send redis b --timeout -1s", "is not positive"},
		{"send redis b --fingerprint MD5:x", "fingerprint"},
		{"send redis b --ssh-arg -v", "are for ssh:// only"},
		{"send redis ssh://b --fingerprint " + fp, "are not for ssh://"},
		{"send redis ssh://b --token mgt1-x", "are not for ssh://"},
		{"send redis http://b", `the scheme "http" is unknown`},
		{"send redis b:0", `"0" is no port`},
		{"send redis b --mode fast", `--mode "fast" is unknown`},
		{"send redis b --mode postcopy --eager", "--eager is not for --mode postcopy: memory comes after"},
		{"send redis b --mode postcopy --tracker wp", "--tracker is not for --mode postcopy"},
		{"send redis b --mode hybrid --verify", "--verify is not for --mode hybrid"},
		{"send redis b --mode precopy --recover-timeout 1m", "--recover-timeout is not for --mode precopy"},
		{"send redis b --mode auto --recover-timeout 1m", "--recover-timeout is not for --mode precopy"},
		{"send redis b --mode hybrid --recover-timeout 0s", "--recover-timeout has to be positive"},
		{"send redis ssh://b --mode postcopy", "--mode postcopy is not for ssh://"},
		{"send redis b --mode hybrid --tracker hash --recover-timeout 1m", "this needs root"},
		{"send redis b", "this needs root"},
		{"recv extra", `unexpected argument "extra"`},
		{"recv --stdio --listen :1", "exclude each other"},
		{"recv --allow-mount srv", "is no absolute path"},
		{"recv --max-migrations 0", "is not positive"},
		{"recv --max-files lots", "is no size"},
		{"recv --log-format xml", `log format "xml" is unknown`},
		{"recv", "this needs root"},
		{"enroll --ttl 0s", "is out of range"},
		{"enroll --ttl 9999h", "is out of range"},
		{"peers frob", `unknown command "peers frob"`},
		{"peers add", "FINGERPRINT is missing"},
		{"peers add x", "fingerprint"},
		{"peers remove", "FINGERPRINT is missing"},
		{"thaw", "CONTAINER is missing"},
		{"thaw redis", "this needs root"},
		{"completion", "SHELL is missing"},
		{"completion csh", `shell "csh" is unknown`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, out, errs := runTest(t, strings.Fields(tt.args)...)
			if code != 2 {
				t.Errorf("exit code %d, want 2", code)
			}
			if !strings.HasPrefix(errs, "error: ") || !strings.Contains(errs, tt.want) {
				t.Errorf("standard error is %q, want an error with %q", errs, tt.want)
			}
			if tt.args != "" && out != "" {
				t.Errorf("standard output is %q, want nothing", out)
			}
		})
	}
}

// A container may be called like a command.
func TestContainerNamedHelp(t *testing.T) {
	for _, name := range []string{"help", "h", "send", "recv"} {
		code, _, errs := runTest(t, "send", name, "b")
		if code != 2 || !strings.Contains(errs, "this needs root") {
			t.Errorf("send %s b: %d %q, want that root is missing", name, code, errs)
		}
	}
}

func TestJSONOnUsageError(t *testing.T) {
	code, out, errs := runTest(t, "send", "redis", "b", "--json", "--streams", "99")
	var r report.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("standard output is no report: %v\n%s", err, out)
	}
	if code != 2 || errs == "" || r.Version != report.Version || r.Result != report.Stayed || r.Error == nil || r.Error.Code != fail.Usage {
		t.Errorf("exit %d, %q, report %+v", code, errs, r)
	}
}

func TestHelp(t *testing.T) {
	for _, name := range []string{"send", "recv", "enroll", "peers", "fingerprint", "thaw", "completion"} {
		code, out, errs := runTest(t, name, "--help")
		if code != 0 || errs != "" || !strings.Contains(out, "EXAMPLES:") {
			t.Errorf("%s --help: exit %d, %q, and help %q", name, code, errs, out)
		}
	}
	if code, out, _ := runTest(t, "--help"); code != 0 || strings.Contains(out, guardCommand+" ") {
		t.Errorf("--help: exit %d; the guard is nobody's business:\n%s", code, out)
	}
}

func TestVersion(t *testing.T) {
	code, out, _ := runTest(t, "--version")
	if code != 0 || !strings.HasPrefix(out, "migrate ") || !strings.Contains(out, "commit ") {
		t.Errorf("exit %d, %q", code, out)
	}
}

func TestReorder(t *testing.T) {
	app := newApp(environment{})
	for _, tt := range []struct{ in, want string }{
		{"send redis b:7600 --json", "send --json redis b:7600"},
		{"send redis --name cache b --quiet", "send --name cache --quiet redis b"},
		{"send --streams=3 redis -n k8s b", "send --streams=3 -n k8s redis b"},
		{"send redis b -- --json", "send -- redis b --json"},
		{"send redis b --keep-source --frob x", "send --keep-source --frob redis b x"},
		{"peers --state-dir /x add SHA256:y my host", "peers --state-dir /x add SHA256:y my host"},
		{"peers add SHA256:y --state-dir /x me", "peers add --state-dir /x SHA256:y me"},
		{"recv --allow-mount /a --allow-mount /b", "recv --allow-mount /a --allow-mount /b"},
		{"--version", "--version"},
		{"send redis b --na --generate-bash-completion", "send redis b --na --generate-bash-completion"},
		{"send redis b --name", "send --name"},
	} {
		got := reorder(app, append([]string{"migrate"}, strings.Fields(tt.in)...))
		if want := append([]string{"migrate"}, strings.Fields(tt.want)...); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", tt.in, got, want)
		}
	}
}

func TestPeers(t *testing.T) {
	const one, two = "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", "SHA256:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0"
	dir := t.TempDir()
	must := func(args ...string) string {
		t.Helper()
		code, out, errs := runTest(t, append(args, "--state-dir", dir)...)
		if code != 0 {
			t.Fatalf("%q: exit %d: %s", args, code, errs)
		}
		return out
	}
	if out := must("peers"); out != "" {
		t.Errorf("peers at first: %q", out)
	}
	path := filepath.Join(dir, "authorized_peers")
	if err := os.WriteFile(path, []byte("# mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	must("peers", "add", one, "rack", "3")
	must("peers", "add", two)
	if out, want := must("peers"), one+" rack 3\n"+two+"\n"; out != want {
		t.Errorf("peers: %q, want %q", out, want)
	}
	must("peers", "remove", one)
	b, err := os.ReadFile(path)
	if err != nil || string(b) != "# mine\n"+two+"\n" {
		t.Errorf("after removal the file is %q, %v", b, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if code, _, errs := runTest(t, "peers", "remove", one, "--state-dir", dir); code != 5 || !strings.Contains(errs, "is not among the peers") {
		t.Errorf("second removal: exit %d, %q", code, errs)
	}
}

func TestEnrollAndFingerprint(t *testing.T) {
	dir := t.TempDir()
	code, fp, errs := runTest(t, "fingerprint", "--state-dir", dir)
	if code != 0 || !strings.HasPrefix(fp, "SHA256:") {
		t.Fatalf("fingerprint: exit %d, %q, %q", code, fp, errs)
	}
	code, token, errs := runTest(t, "enroll", "--ttl", "1h", "--state-dir", dir)
	if code != 0 || !strings.HasPrefix(token, "mgt1-") || strings.Count(token, "\n") != 1 || !strings.Contains(errs, "valid once, until ") {
		t.Errorf("enroll: exit %d, %q, %q", code, token, errs)
	}
	if _, again, _ := runTest(t, "fingerprint", "--state-dir", dir); again != fp {
		t.Errorf("the fingerprint changed from %q to %q", fp, again)
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, out, errs := runTest(t, "completion", shell)
		if code != 0 || !strings.Contains(out, "migrate") {
			t.Errorf("%s: exit %d, %q, %q", shell, code, out, errs)
		}
	}
	for _, tt := range []struct{ line, want, not string }{
		{"", "send", guardCommand},
		{"send --na", "--namespace", "--json"},
		{"send redis b --bandw", "--bandwidth", "--json"},
		{"completion", "fish", "send"},
		{"peers", "remove", "send"},
	} {
		// the completion of the flag library looks at the process's own arguments
		cmd := exec.Command(os.Args[0], append(strings.Fields(tt.line), completionFlag)...)
		cmd.Env = append(os.Environ(), mainEnv+"=1")
		out, err := cmd.Output()
		lines := strings.Split(string(out), "\n")
		if err != nil || !slices.Contains(lines, tt.want) || slices.Contains(lines, tt.not) {
			t.Errorf("%q completes to %q (%v), want %q and not %q", tt.line, lines, err, tt.want, tt.not)
		}
	}
}

// The script is tried in the shell itself.
func TestBashScript(t *testing.T) {
	dir := t.TempDir()
	wrapper := "#!/bin/sh\n" + mainEnv + "=1 exec " + os.Args[0] + ` "$@"` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "migrate"), []byte(wrapper), 0o700); err != nil {
		t.Fatal(err)
	}
	const try = `source completion/migrate.bash; COMP_WORDS=(migrate send redis --keep-s); COMP_CWORD=3; _migrate; echo "${COMPREPLY[@]}"`
	cmd := exec.Command("bash", "-c", try)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "--keep-source" {
		t.Errorf("got %q, %v", out, err)
	}
}
