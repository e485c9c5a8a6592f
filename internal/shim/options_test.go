package shim

import (
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	generic "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
)

func TestTranslate(t *testing.T) {
	const text = "BinaryName = \"/opt/runc\"\nRoot = \"/run/r\"\nSystemdCgroup = true\n"
	file := filepath.Join(t.TempDir(), "runc.toml")
	writeFile(t, file, text)
	for name, c := range map[string]struct {
		in any
		ok bool
	}{
		"runc's own":     {&options.Options{BinaryName: "/opt/runc", Root: "/run/r", SystemdCgroup: true}, true},
		"in a file":      {&generic.Options{ConfigPath: file}, true},
		"given":          {&generic.Options{ConfigBody: []byte(text)}, true},
		"not TOML":       {&generic.Options{ConfigBody: []byte("{")}, false},
		"of other kinds": {&generic.Options{ConfigBody: []byte("Root = 3")}, false},
		"missing file":   {&generic.Options{ConfigPath: file + ".not"}, false},
	} {
		a, err := typeurl.MarshalAnyToProto(c.in)
		if err != nil {
			t.Fatal(err)
		}
		a, err = translate(a)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		o, err := runcOptions(a)
		if err != nil || o.BinaryName != "/opt/runc" || o.Root != "/run/r" || !o.SystemdCgroup {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
	if a, err := translate(nil); a != nil || err != nil {
		t.Errorf("nothing: %v, %v", a, err)
	}
	if o, err := runcOptions(nil); err != nil || o.Root != "" {
		t.Errorf("nothing: %v, %v", o, err)
	}
}
