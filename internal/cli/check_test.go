package cli

import (
	"bytes"
	"strings"
	"testing"

	"migrate/internal/fail"
	"migrate/internal/preflight"
	"migrate/migrate"
)

func TestCheckArguments(t *testing.T) {
	for line, want := range map[string]string{
		"check a b c":                         `unexpected argument "c"`,
		"check a b --ignore socket-mptpc":     "no finding has that code",
		"check a --ignore x":                  "no finding has that code",
		"check a ssh://h --token mgt1-x":      "not for ssh://",
		"check a --tracker psychic":           "psychic",
		"check a ftp://b":                     "ftp",
		"send a b --ignore nonsense":          "no finding has that code",
		"check a b --fingerprint SHA256:nope": "fingerprint",
	} {
		var out, said bytes.Buffer
		code := run(append([]string{"migrate"}, strings.Fields(line)...), environment{in: strings.NewReader(""), out: &out, err: &said, euid: 0})
		if code != 2 || !strings.Contains(said.String(), want) {
			t.Errorf("%s: exit status %d, want 2 and %q\n%s", line, code, want, said.String())
		}
	}
	var out, said bytes.Buffer
	if code := run([]string{"migrate", "check"}, environment{in: strings.NewReader(""), out: &out, err: &said, euid: 1000}); code != 2 || !strings.Contains(said.String(), "root") {
		t.Errorf("without root: exit status %d\n%s", code, said.String())
	}
}

func TestShowCheck(t *testing.T) {
	fd := 5
	block := preflight.New("io-uring", preflight.Source, preflight.Thing{Pid: 7, Comm: "web", FD: &fd, Path: "anon_inode:[io_uring]"}, "")
	block.State = preflight.StillRunning
	note := preflight.New("kernel-older", preflight.Destination, preflight.Thing{}, "")
	rep := &migrate.CheckReport{Container: "redis", Destination: "b"}
	rep.Add(nil, note, block)
	var out bytes.Buffer
	showCheck(&out, rep, nil)
	text := out.String()
	for _, want := range []string{
		"blocks: io-uring: process 7 (web), descriptor 5, anon_inode:[io_uring]\n", "  where: source\n", "  why: CRIU cannot dump io_uring\n", "  remedy: switch",
		"  state: the container is still running\n", "note: kernel-older\n", "blocked: 1 findings block, 0 degrade, 1 notes\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Index(text, "blocks:") > strings.Index(text, "note:") {
		t.Errorf("what blocks does not come first:\n%s", text)
	}
	if !rep.Blocked {
		t.Error("the report does not say that something blocks")
	}
	rep.Add([]string{"io-uring"})
	out.Reset()
	if showCheck(&out, rep, []string{"io-uring"}); !strings.Contains(out.String(), `fine: container "redis" can be moved to b`) {
		t.Errorf("with the finding ignored:\n%s", out.String())
	}
}

// The exit code says which side blocks.
func TestCheckExitCodes(t *testing.T) {
	for _, c := range []struct {
		code, side string
		exit       int
	}{
		{"socket-mptcp", preflight.Source, 3}, {"criu-missing", preflight.Source, 7}, {"policy", preflight.Destination, 4},
		{"criu-missing", preflight.Destination, 4}, {"memory", preflight.Source, 9}, {"disk", preflight.Destination, 9},
	} {
		err := blocked("redis", []preflight.Finding{preflight.New(c.code, c.side, preflight.Thing{}, "")})
		if got := fail.Exit(err); got != c.exit {
			t.Errorf("%s at the %s: exit status %d, want %d", c.code, c.side, got, c.exit)
		}
	}
}
