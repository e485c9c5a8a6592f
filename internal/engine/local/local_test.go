package local

import (
	"os"
	"path/filepath"
	"testing"
)

func TestVersions(t *testing.T) {
	for _, test := range []struct {
		have   string
		oldest Version
		ok     bool
	}{
		{"1.3.6", OldestRunc, true}, {"1.1.15+ds1", OldestRunc, true}, {"1.0.3", OldestRunc, false}, {"2.0-rc1", OldestRunc, true},
		{"3.16.1", criuAny, true}, {"3.9", criuAny, false}, {"4.1.1", criuForNewKernel, false}, {"4.2.1", criuForNewKernel, true},
		{"", OldestRunc, false}, {"devel", OldestRunc, false},
	} {
		if err := CheckTool("tool", "no-such-tool", test.have, test.oldest, ""); (err == nil) != test.ok {
			t.Errorf("CheckTool(%q, %v) = %v", test.have, test.oldest, err)
		}
	}
	for kernel, want := range map[string]Version{"6.18.44-fc": criuForNewKernel, "6.16.0": criuForNewKernel, "6.12.1": criuAny, "5.15.0-91-generic": criuAny, "7.0": criuForNewKernel} {
		if got, _ := OldestCRIU(kernel); got != want {
			t.Errorf("OldestCRIU(%s) = %v, want %v", kernel, got, want)
		}
	}
}

func TestRuncState(t *testing.T) {
	dir := t.TempDir()
	freeze := filepath.Join(dir, "cgroup.freeze")
	state := `{"cgroup_paths":{"":"` + dir + `"},"config":{"labels":["bundle=/b","org.criu.config=/c"],"namespaces":[{"type":"NEWPID","path":""},{"type":"NEWNET","path":"/n"}],"mounts":[
		{"device":"bind","destination":"/data"},{"device":"tmpfs","destination":"/run"}]}}`
	for _, err := range []error{os.Mkdir(filepath.Join(dir, "web"), 0o700), os.WriteFile(freeze, nil, 0o600),
		os.WriteFile(filepath.Join(dir, "web", "state.json"), []byte(state), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := ReadRuncState(dir, "web")
	if err != nil {
		t.Fatal(err)
	}
	if s.CRIUConfig() != "/c" || s.Freezer() != freeze || len(s.BindMounts()) != 1 || s.BindMounts()[0] != "/data" {
		t.Errorf("state says %q, %q, %v", s.CRIUConfig(), s.Freezer(), s.BindMounts())
	}
	if s.NetNS() != "/n" || (&RuncState{}).NetNS() != "" {
		t.Errorf("NetNS = %q", s.NetNS())
	}
	if got := (&RuncState{}).CRIUConfig(); got != defaultCRIUConfig {
		t.Errorf("CRIUConfig without annotation = %q", got)
	}
}
