package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// remoteSide is what the test binary does as the remote command.
func remoteSide() {
	s, err := Stdio(context.Background(), os.Stdin, os.Stdout, Destination, Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, "remote:", err)
		os.Exit(1)
	}
	_, p, err := s.RecvControl(context.Background())
	if err == nil && string(p) == "die" {
		fmt.Fprintln(os.Stderr, "remote: disk full")
		os.Exit(3)
	}
	if err == nil {
		err = s.SendControl(context.Background(), 2, p)
	}
	if err = errors.Join(err, s.Close()); err != nil {
		fmt.Fprintln(os.Stderr, "remote:", err)
		os.Exit(1)
	}
}

func dialRemote(t *testing.T) *Session {
	t.Helper()
	t.Setenv("TRANSFER_TEST_REMOTE", "1")
	s, err := DialCommand(testContext(t), []string{os.Args[0]}, Options{})
	must(t, err)
	t.Cleanup(func() { s.Abort(nil) })
	return s
}

func TestCommandRoundTrip(t *testing.T) {
	s := dialRemote(t)
	must(t, s.SendControl(testContext(t), 1, []byte("hello")))
	_, p, err := s.RecvControl(testContext(t))
	if err != nil || string(p) != "hello" {
		t.Fatalf("%q, %v", p, err)
	}
	must(t, s.Close())
}

func TestCommandEndsEarly(t *testing.T) {
	s := dialRemote(t)
	must(t, s.SendControl(testContext(t), 1, []byte("die")))
	_, _, err := s.RecvControl(testContext(t))
	var cmd *CommandError
	if !errors.As(err, &cmd) || !strings.Contains(cmd.Stderr, "disk full") || cmd.Status != "exit status 3" {
		t.Errorf("error is %v", err)
	}
}

func TestCommandThatSpeaksSomethingElse(t *testing.T) {
	for script, want := range map[string]string{
		"echo no such host >&2; exit 255": "no such host",
		"echo Welcome to this machine":    "Welcome",
		"yes hello":                       "hello",
	} {
		_, err := DialCommand(testContext(t), []string{"sh", "-c", script}, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v", script, err)
		}
	}
	if _, err := DialCommand(testContext(t), []string{"/does/not/exist"}, Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing command: %v", err)
	}
}

func TestTailIsBounded(t *testing.T) {
	var tl tail
	for i := range 10000 {
		fmt.Fprintf(&tl, "line %d \x1b[31m\n", i)
	}
	got := tl.String()
	if !strings.HasSuffix(got, "line 9999 [31m") || strings.Count(got, ";") != stderrLines-1 || len(got) > stderrBytes {
		t.Errorf("kept %q", got)
	}
}

func TestSSHCommand(t *testing.T) {
	argv, err := SSHCommand("root", "host.example", 2222, []string{"migrate", "recv", "--dir=/a b", "it's"}, []string{"-F", "/etc/x"})
	must(t, err)
	tailWant := []string{"-l", "root", "-p", "2222", "-F", "/etc/x", "--", "host.example", `migrate recv '--dir=/a b' 'it'\''s'`}
	if got := argv[len(argv)-len(tailWant):]; !slices.Equal(got, tailWant) {
		t.Errorf("argv ends with %q", got)
	}
	for _, bad := range []struct{ user, host string }{
		{"", "-oProxyCommand=x"}, {"", ""}, {"-l", "h"}, {"", "a b"}, {"", "$(x)"}, {"u;v", "h"}, {"", "h\n"},
	} {
		if _, err := SSHCommand(bad.user, bad.host, 0, []string{"x"}, nil); err == nil {
			t.Errorf("user %q, host %q accepted", bad.user, bad.host)
		}
	}
}

func TestStdioGarbage(t *testing.T) {
	_, err := Stdio(testContext(t), strings.NewReader(strings.Repeat("GET / HTTP/1.1\r\n", 20)), io.Discard, Destination, Options{})
	mustBe(t, err, ErrProtocol)
	_, err = Stdio(testContext(t), strings.NewReader("short"), io.Discard, Source, Options{})
	mustBe(t, err, io.ErrUnexpectedEOF)
}
