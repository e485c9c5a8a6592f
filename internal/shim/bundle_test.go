package shim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"

	"migrate/internal/criu"
)

func TestPoint(t *testing.T) {
	for name, c := range map[string]struct{ spec, want string }{
		"the runtime makes the network": {`{"linux":{"namespaces":[{"type":"pid"},{"type":"network"}]}}`, criu.ActionSetupNamespaces},
		"the network is there":          {`{"linux":{"namespaces":[{"type":"network","path":"/run/netns/x"}]}}`, criu.ActionPostRestore},
		"the host's network":            {`{"linux":{"namespaces":[{"type":"pid"}]}}`, criu.ActionPostRestore},
		"nothing":                       {`{}`, criu.ActionPostRestore},
	} {
		s, err := decodeSpec([]byte(c.spec))
		if err != nil || s.point() != c.want {
			t.Errorf("%s: %v, %v, want %s", name, s.point(), err, c.want)
		}
	}
	if _, err := decodeSpec([]byte("{")); err == nil {
		t.Error("a broken specification was taken")
	}
}

// TestArrange keeps what the engine wants of CRIU, before and after the restore.
func TestArrange(t *testing.T) {
	config := filepath.Join(t.TempDir(), "mine.conf")
	writeFile(t, config, "tcp-established\naction-script \"/mine\"\nwork-dir \"/some where\"")
	dir := t.TempDir()
	spec := `{"annotations":{"org.criu.config":"` + config + `","a":"b"},"process":{"args":["x"]}}`
	writeFile(t, filepath.Join(dir, "config.json"), spec)
	o, err := typeurl.MarshalAnyToProto(&options.Options{Root: "/run/docker/runtime-runc", CriuWorkPath: "/unused"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := arrange(namespace, &taskAPI.CreateTaskRequest{ID: taskID, Bundle: dir, Options: o})
	if err != nil {
		t.Fatal(err)
	}
	if b.left.State != "/run/docker/runtime-runc/moby/web" || b.left.Work != "/some where" {
		t.Errorf("%+v", b.left)
	}
	text, _ := os.ReadFile(filepath.Join(dir, "config.json"))
	s, err := decodeSpec(text)
	if err != nil || s.annotations["a"] != "b" || !strings.Contains(string(text), `"args":["x"]`) {
		t.Errorf("the specification is now %s, %v", text, err)
	}
	got, err := os.ReadFile(s.annotations["org.criu.config"])
	if err != nil || !strings.HasPrefix(string(got), "tcp-established\naction-script \"/mine\"\n") {
		t.Errorf("configuration: %s, %v", got, err)
	}
	if lines := strings.Split(strings.TrimSpace(string(got)), "\n"); !strings.HasPrefix(lines[len(lines)-1], "action-script \""+dir) {
		t.Errorf("the shim's action script is not the last one: %s", got)
	}
	if err := b.settle(); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "config.json")); string(text) != spec {
		t.Errorf("the specification is left as %s", text)
	}
	writeFile(t, config, "changed")
	if text, err := os.ReadFile(s.annotations["org.criu.config"]); string(text) != "changed" {
		t.Errorf("later checkpoints see %q, %v", text, err)
	}
}

// TestOrderOfScripts has others prepare a namespace before the shim has it filled, and nobody hears of a namespace that one of them refuses.
func TestOrderOfScripts(t *testing.T) {
	for other, want := range map[string]string{"exit 0": "setup-namespaces", "exit 1": ""} {
		t.Run(other, func(t *testing.T) {
			dir := t.TempDir()
			theirs, config := filepath.Join(dir, "their's"), filepath.Join(dir, "mine.conf")
			if err := os.WriteFile(theirs, []byte("#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION >>"+dir+"/called\n"+other+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			writeFile(t, config, "tcp-established\naction-script \""+theirs+"\"")
			writeFile(t, filepath.Join(dir, "config.json"), `{"annotations":{"org.criu.config":"`+config+`"},"linux":{"namespaces":[{"type":"network"}]}}`)
			b, err := arrange(namespace, &taskAPI.CreateTaskRequest{ID: taskID, Bundle: dir})
			if err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(b.own(configName))
			if err != nil || strings.Contains(string(text), theirs) || strings.Count(string(text), "action-script") != 1 || !strings.Contains(string(text), "tcp-established\n") {
				t.Errorf("configuration: %s, %v", text, err)
			}
			if err := b.hook.Release(true); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(b.hook.Script())
			cmd.Env = append(os.Environ(), "CRTOOLS_SCRIPT_ACTION=setup-namespaces", "CRTOOLS_INIT_PID=42")
			if err := cmd.Run(); (err == nil) != (want != "") {
				t.Errorf("the script ends with %v", err)
			}
			said := ""
			select {
			case ev := <-b.hook.Events():
				said = ev.Action
			case <-time.After(100 * time.Millisecond):
			}
			if said != want {
				t.Errorf("the shim hears %q, want %q", said, want)
			}
			if called, _ := os.ReadFile(dir + "/called"); string(called) != "setup-namespaces\n" {
				t.Errorf("the other script was called for %q", called)
			}
			if err := b.settle(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestArrangeWithoutConfiguration(t *testing.T) {
	for name, annotations := range map[string]string{"none": `{"org.criu.config":""}`, "missing": `{"org.criu.config":"/nonexistent/x"}`} {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "config.json"), `{"annotations":`+annotations+`}`)
		b, err := arrange(namespace, &taskAPI.CreateTaskRequest{ID: taskID, Bundle: dir})
		if err != nil {
			t.Fatal(err)
		}
		if b.left.Work != filepath.Join(dir, "work") || b.left.State != "/run/containerd/runc/moby/web" {
			t.Errorf("%s: %+v", name, b.left)
		}
		if err := b.settle(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(b.own(configName)); !os.IsNotExist(err) {
			t.Errorf("%s: later checkpoints see a configuration: %v", name, err)
		}
	}
}
