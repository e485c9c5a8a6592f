//go:build !inhost

package docker

import (
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
)

// A call waits for a daemon that is being started, unless it is in a hurry.
func TestDialWaits(t *testing.T) {
	d := dialer{filepath.Join(t.TempDir(), "docker.sock"), waits}
	began := time.Now()
	if _, err := d.dial(hurried(t.Context()), "", ""); err == nil || time.Since(began) > time.Second {
		t.Errorf("in a hurry: %v after %v", err, time.Since(began))
	}
	started := make(chan net.Listener, 1)
	time.AfterFunc(3*dialPoll, func() {
		l, err := net.Listen("unix", d.socket)
		if err != nil {
			t.Error(err)
		}
		started <- l
	})
	conn, err := d.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if err := (<-started).Close(); err != nil {
		t.Error(err)
	}
}

func TestRestarts(t *testing.T) {
	for _, test := range []struct {
		policy string
		max    int
		code   int
		count  int
		want   bool
	}{
		{"always", 0, 0, 0, true}, {"unless-stopped", 0, 0, 9, true}, {"no", 0, 1, 0, false}, {"", 0, 1, 0, false},
		{"on-failure", 0, 0, 0, false}, {"on-failure", 0, 137, 99, true}, {"on-failure", 3, 137, 2, true}, {"on-failure", 3, 137, 3, false},
	} {
		r := &container.InspectResponse{State: &container.State{ExitCode: test.code}, RestartCount: test.count}
		p := container.RestartPolicy{Name: container.RestartPolicyMode(test.policy), MaximumRetryCount: test.max}
		if got := restarts(p, r); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// Notes survive being written again, and are found by either name.
func TestShieldNotes(t *testing.T) {
	e := &Engine{opts: Options{Shields: filepath.Join(t.TempDir(), "shielded")}}
	if s, err := e.shieldOf("web"); s != nil || err != nil {
		t.Fatalf("nothing is there: %+v, %v", s, err)
	}
	s := &shield{ID: "0123", Name: "web", Policy: container.RestartPolicy{Name: "on-failure", MaximumRetryCount: 3}, path: filepath.Join(e.opts.Shields, "0123"+shieldSuffix)}
	if err := s.write(); err != nil {
		t.Fatal(err)
	}
	if err := e.Doubt(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "0123"} {
		got, err := e.shieldOf(name)
		if err != nil || got == nil || !got.Doubt || got.Policy != s.Policy || got.path != s.path {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if err := e.dropShield("web"); err != nil {
		t.Error(err)
	}
	if all, err := e.shields(); len(all) > 0 || err != nil {
		t.Errorf("left are %v, %v", all, err)
	}
}
