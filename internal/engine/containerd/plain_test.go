package containerd

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"

	"migrate/internal/engine"
	"migrate/internal/engine/imagestore"
)

func TestNewSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]string{filepath.Join(dir, "none.sock"): "start containerd", file: "not a socket"} {
		if _, err := New(t.Context(), Options{Address: addr}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New at %s: %v, want %q", addr, err, want)
		}
	}
	if _, err := New(t.Context(), Options{Namespace: "a/b"}); err == nil {
		t.Error("New took a namespace with a slash")
	}
}

func TestStreams(t *testing.T) {
	log := "file:///logs/ns-web.log"
	in, out, err := fifoDir+"/ns-web-stdin", fifoDir+"/ns-web-stdout", fifoDir+"/ns-web-stderr"
	fifos := engine.Stdio{Stdin: "/f/0", Stdout: "/f/1", Stderr: "/f/2"}
	for name, test := range map[string]struct {
		drain    []string
		in, want engine.Stdio
	}{
		"none":              {nil, engine.Stdio{}, engine.Stdio{}},
		"file":              {nil, engine.Stdio{Stdout: "file:///a", Stderr: "file:///b"}, engine.Stdio{Stdout: "file:///a", Stderr: "file:///b"}},
		"binary":            {nil, engine.Stdio{Stdout: "binary:///a?x=y", Stderr: "binary:///a?x=y"}, engine.Stdio{Stdout: "binary:///a?x=y", Stderr: "binary:///a?x=y"}},
		"fifo, no reader":   {nil, fifos, engine.Stdio{Stdin: in, Stdout: log, Stderr: log}},
		"fifo":              {[]string{"x"}, fifos, engine.Stdio{Stdin: in, Stdout: out, Stderr: err}},
		"output alone":      {[]string{"x"}, engine.Stdio{Stdout: "/f/1"}, engine.Stdio{Stdout: out}},
		"unknown URI":       {[]string{"x"}, engine.Stdio{Stdout: "npipe://x"}, engine.Stdio{Stdout: log}},
		"terminal":          {[]string{"x"}, engine.Stdio{Stdin: "/f/0", Stdout: "/f/1", Terminal: true}, engine.Stdio{Stdin: in, Stdout: out, Terminal: true}},
		"terminal, log":     {[]string{"x"}, engine.Stdio{Stdout: "file:///a", Terminal: true}, engine.Stdio{Stdout: terminalLog("file:///a"), Terminal: true}},
		"terminal, nothing": {[]string{"x"}, engine.Stdio{Terminal: true}, engine.Stdio{Stdout: terminalLog(log), Terminal: true}},
	} {
		e := &Engine{opts: Options{Namespace: "ns", LogDir: "/logs", Drain: test.drain}}
		got := e.streams("web", test.in)
		if (engine.Stdio{Stdin: got.Stdin, Stdout: got.Stdout, Stderr: got.Stderr, Terminal: got.Terminal}) != test.want {
			t.Errorf("%s: streams = %+v, want %+v", name, got, test.want)
		}
	}
}

func TestTerminalLogQuotesItsFile(t *testing.T) {
	u, err := url.Parse(terminalLog(fileURI("/logs/it's; rm -rf x.log")))
	if err != nil || u.Scheme != "binary" || u.Path != "/bin/sh" {
		t.Fatalf("terminalLog = %v, %v", u, err)
	}
	if script := u.Query().Get("-c"); !strings.HasSuffix(script, `>>'/logs/it'\''s; rm -rf x.log'`) {
		t.Errorf("script is %s", script)
	}
}

func TestLabels(t *testing.T) {
	theirs := map[string]string{
		"app": "web", restartStatus: "running", restartPrefix + "policy": "always", restartLogURI: "binary:///evil", gcPrefix + "root": "x",
	}
	if got := recordLabels(theirs); len(got) != 1 || got["app"] != "web" {
		t.Errorf("recordLabels = %v", got)
	}
	if got := adoptedLabels(theirs); len(got) != 3 || got[restartStatus] != "running" || got[restartLogURI] != "" {
		t.Errorf("adoptedLabels = %v", got)
	}
	if got := storeLabels(map[string]string{"a": "b", snapshotRef: "x", gcPrefix + "ref.content": "y", imagestore.OwnerLabel: "z"}); len(got) != 1 {
		t.Errorf("storeLabels = %v", got)
	}
	if recordLabels(nil) != nil {
		t.Error("recordLabels made labels of none")
	}
}

func TestDigestNameHoldsTheDigestOfWhatItNames(t *testing.T) {
	d := "sha256:" + strings.Repeat("ab", 32)
	for name, want := range map[string]string{
		"host.example/library/nginx:1": "host.example/library/nginx:1@" + d, "x@" + d: "x@" + d, "x@sha256:0000": "x@" + d,
	} {
		if got := digestName(engine.Image{Name: name, Target: engine.Blob{Digest: d}}); got != want {
			t.Errorf("digestName(%s) = %s, want %s", name, got, want)
		}
	}
}

func TestPeersChooseNoBinaries(t *testing.T) {
	theirs, err := typeurl.MarshalAny(&options.Options{BinaryName: "/tmp/evil", Root: "/tmp", CriuImagePath: "/x", SystemdCgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	out, err := safeRuntimeOptions(&engine.TypedAny{TypeURL: theirs.GetTypeUrl(), Value: theirs.GetValue()})
	if err != nil {
		t.Fatal(err)
	}
	var got options.Options
	if err := typeurl.UnmarshalTo(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.BinaryName != "" || got.Root != "" || got.CriuImagePath != "" || !got.SystemdCgroup {
		t.Errorf("options are %v", &got)
	}
	if _, err := safeRuntimeOptions(&engine.TypedAny{TypeURL: "x/y", Value: []byte("z")}); !errors.Is(err, engine.ErrUnsupported) {
		t.Errorf("unknown options: %v, want ErrUnsupported", err)
	}
}

func TestLockIsOnePerContainer(t *testing.T) {
	e := &Engine{opts: Options{Namespace: "ns", LockDir: filepath.Join(t.TempDir(), "lock")}}
	_, unlock, err := e.Lock(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Lock(t.Context(), "web"); !errors.Is(err, engine.ErrExists) {
		t.Errorf("second Lock: %v, want ErrExists", err)
	}
	if _, other, err := e.Lock(t.Context(), "db"); err != nil {
		t.Errorf("Lock of another: %v", err)
	} else if err := other(t.Context()); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := unlock(context.Background()); err != nil {
			t.Errorf("unlock: %v", err)
		}
	}
	if left, _ := os.ReadDir(e.opts.LockDir); len(left) != 0 {
		t.Errorf("lock directory holds %v", left)
	}
}

// A namespace whose path is taken away in the end is nobody else's: a peer names it.
func TestUnnamedNetworkIsOurs(t *testing.T) {
	for path, ok := range map[string]bool{unnamedDir + "/default-web": true, "/run/netns/web": false, "": false, unnamedDir + "/../x": false} {
		err := validNetwork(engine.Network{Mode: engine.NetworkCNI, NetNS: path, Unnamed: true})
		if (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestNameNetNS(t *testing.T) {
	e := &Engine{opts: Options{Namespace: "ns"}}
	moved, own := unnamedDir+"/ns-web", "/proc/7/ns/net"
	for name, test := range map[string]struct {
		n        engine.Network
		given    string // to the runtime
		path, at string
		unnamed  bool
	}{
		"by path":                  {engine.Network{Mode: engine.NetworkCNI, NetNS: "/run/netns/web"}, "/run/netns/web", "/run/netns/web", "", false},
		"own, empty":               {engine.Network{Mode: engine.NetworkNone}, "", own, "", false},
		"own, attached":            {engine.Network{Mode: engine.NetworkCNI, NetNS: moved, Unnamed: true}, "", own, "", true},
		"own, attached, moved":     {engine.Network{Mode: engine.NetworkCNI, NetNS: moved, Unnamed: true}, moved, own, moved, true},
		"own, moved, empty by now": {engine.Network{Mode: engine.NetworkNone}, moved, own, moved, true},
		"the host's":               {engine.Network{Mode: engine.NetworkHost}, "", "", "", false},
	} {
		c, h := &engine.Container{ID: "web", Network: test.n}, &engine.Handles{Pid: 7, NetNS: test.n.NetNS}
		e.nameNetNS(c, h, test.given)
		if h.NetNS != test.path || h.NetNSAt != test.at || c.Network.Unnamed != test.unnamed {
			t.Errorf("%s: %q, looked for at %q, unnamed %v", name, h.NetNS, h.NetNSAt, c.Network.Unnamed)
		}
		if err := validNetwork(c.Network); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHeldNamespaces(t *testing.T) {
	var h heldNamespaces
	if got := h.path("web"); got != "" {
		t.Errorf("path of one that is not held is %q", got)
	}
	for range 2 { // the first is let go
		f, err := os.Open("/proc/self/ns/net")
		if err != nil {
			t.Fatal(err)
		}
		h.put("web", f)
	}
	path := h.path("web")
	want, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.Readlink(path); err != nil || got != want {
		t.Errorf("%s leads to %q, %v, want %q", path, got, err, want)
	}
	h.drop("web")
	if got := h.path("web"); got != "" {
		t.Errorf("path of one that was let go is %q", got)
	}
	h.close()
}

func TestShownLabels(t *testing.T) {
	hidden := map[string]string{hiddenStatus: "running", restartPrefix + "policy": "always", "tier": "web"}
	want := map[string]string{restartStatus: "running", restartPrefix + "policy": "always", "tier": "web"}
	if got := shownLabels(hidden); !maps.Equal(got, want) {
		t.Errorf("shownLabels = %v, want %v", got, want)
	}
	if got := shownLabels(want); !maps.Equal(got, want) {
		t.Errorf("labels of a container that is not hidden become %v", got)
	}
	if got := adoptedLabels(hidden); got[hiddenStatus] != "" {
		t.Errorf("a peer may hide a container: %v", got)
	}
}
