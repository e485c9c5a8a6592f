package migrate_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"migrate/internal/engine"
	"migrate/internal/engine/fake"
	"migrate/internal/fail"
	"migrate/internal/report"
	"migrate/layers/layertest"
	"migrate/migrate"
)

// binding makes the container bind paths; on this machine it has them where the host has them.
func (s *site) binding(mounts map[string]string) {
	s.t.Helper()
	var parts []string
	for dest, source := range mounts {
		m, err := json.Marshal(map[string]any{"destination": dest, "type": "bind", "source": source, "options": []string{"rbind", "rw"}})
		must(s.t, err)
		parts = append(parts, string(m))
	}
	c := fake.Container(contID)
	c.Network = engine.Network{Mode: engine.NetworkNone}
	c.Spec = json.RawMessage(strings.Replace(spec, `"mounts":[`, `"mounts":[`+strings.Join(parts, ",")+",", 1))
	s.src.AddContainer(c, engine.StatusRunning)
	s.src.SetUpper(contID, filepath.Join(s.dir, "upper"))
	s.storage.Left, s.storage.Files = filepath.Join(s.dir, "left"), filepath.Join(s.dir, "src-files")
	s.policy.AllowMounts = []string{s.dir}
}

// volumeSite has a container that binds a directory with all kinds of entries in it.
func volumeSite(t *testing.T) (s *site, data string) {
	t.Helper()
	s = newSite(t)
	data = filepath.Join(s.dir, "srv/data")
	must(t, os.MkdirAll(data, 0o750))
	must(t, layertest.Populate(data, 80, 11))
	s.binding(map[string]string{data: data})
	return s, data
}

func mustEqualTrees(t *testing.T, a, b string) {
	t.Helper()
	want, err := layertest.Snapshot(a)
	must(t, err)
	got, err := layertest.Snapshot(b)
	must(t, err)
	if d := layertest.Diff(want, got); len(d) > 0 {
		t.Errorf("%s and %s differ:\n%s", a, b, strings.Join(d, "\n"))
	}
}

func noneLeft(t *testing.T, pattern string) {
	t.Helper()
	if left, _ := filepath.Glob(pattern); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}

func howOf(rep *report.Report, mount string) string {
	i := slices.IndexFunc(rep.Storage, func(s report.Storage) bool { return s.Mount == mount })
	if i < 0 {
		return ""
	}
	return rep.Storage[i].How
}

func TestContentOfABindComesAlong(t *testing.T) {
	for _, precopy := range []bool{false, true} {
		s, data := volumeSite(t)
		if precopy {
			s.usePrecopy()
		}
		there := filepath.Join(s.dir, "there/below/data")
		s.storage.Copies, s.storage.Binds = []string{data}, map[string]string{data: there}
		rep, err := s.send(testContext(t))
		if cerr := s.check(rep, err); err != nil || cerr != nil {
			t.Fatalf("%v, %v", err, cerr)
		}
		mustEqualTrees(t, data, there)
		if howOf(rep, data) != "copied" || rep.Volumes.Raw == 0 {
			t.Errorf("the report says %+v, %+v", rep.Storage, rep.Volumes)
		}
		c, _, err := s.dst.Inspect(testContext(t), contID)
		if err != nil || !strings.Contains(string(c.Spec), there) || strings.Contains(string(c.Spec), `"source":"`+data+`"`) {
			t.Errorf("the record is %s, %v", c.Spec, err)
		}
		noneLeft(t, filepath.Join(s.dir, "there/.*"))
	}
}

func TestContentIsTakenBack(t *testing.T) {
	s, data := volumeSite(t)
	file, there := filepath.Join(s.dir, "srv/file"), filepath.Join(s.dir, "there")
	must(t, os.WriteFile(file, []byte("content"), 0o640))
	s.binding(map[string]string{data: data, file: file})
	s.storage.Copies = []string{data, file}
	s.storage.Binds = map[string]string{data: filepath.Join(there, "a/data"), file: filepath.Join(there, "b/renamed")}
	s.noHold = true // the destination fails at the last moment, when all is in place
	rep, err := s.send(testContext(t))
	if err == nil {
		t.Fatal("moved")
	}
	if cerr := s.check(rep, err); cerr != nil {
		t.Error(cerr)
	}
	noneLeft(t, there)
	s.noHold = false
	s.storage.Binds[data], s.storage.Binds[file] = filepath.Join(there, "data"), filepath.Join(there, "renamed")
	rep, err = s.send(testContext(t))
	if cerr := s.check(rep, err); err != nil || cerr != nil {
		t.Fatalf("%v, %v", err, cerr)
	}
	mustEqualTrees(t, data, filepath.Join(there, "data"))
	if b, err := os.ReadFile(filepath.Join(there, "renamed")); err != nil || string(b) != "content" {
		t.Errorf("the file is %q, %v", b, err)
	}
	if names, _ := os.ReadDir(there); len(names) != 2 {
		t.Errorf("left are %v", names)
	}
}

// On one machine both hosts have the same storage.
func TestSharedStorageIsRecognised(t *testing.T) {
	s, data := volumeSite(t)
	before, err := layertest.Snapshot(data)
	must(t, err)
	s.storage.Copies = []string{data}
	rep, err := s.send(testContext(t))
	if cerr := s.check(rep, err); err != nil || cerr != nil {
		t.Fatalf("%v, %v", err, cerr)
	}
	if howOf(rep, data) != "shared" || rep.Volumes.Raw != 0 {
		t.Errorf("the report says %+v, %+v", rep.Storage, rep.Volumes)
	}
	after, err := layertest.Snapshot(data)
	must(t, err)
	delete(before, "") // its times tell of the probe
	delete(after, "")
	delete(before, ".")
	delete(after, ".")
	if d := layertest.Diff(before, after); len(d) > 0 {
		t.Errorf("the storage has changed: %v", d)
	}
}

func TestVolumesThatAreRefused(t *testing.T) {
	dir := func(s *site, name, text string) string {
		path := filepath.Join(s.dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
		return filepath.Dir(path)
	}
	for name, c := range map[string]struct {
		set   func(s *site, data string)
		code  fail.Code
		words string
	}{
		"in the way": {func(s *site, data string) {
			s.storage.Copies, s.storage.Binds = []string{data}, map[string]string{data: dir(s, "other/f", "theirs")}
		}, fail.Refused, "nothing is overwritten"},
		"a file where a directory comes": {func(s *site, data string) {
			s.storage.Copies, s.storage.Binds = []string{data}, map[string]string{data: dir(s, "other/f", "theirs") + "/f"}
		}, fail.Refused, "nothing is overwritten"},
		"not allowed": {func(s *site, data string) {
			s.policy.AllowMounts, s.storage.Copies = []string{"/nowhere"}, []string{data}
		}, fail.Refused, "binds " + "/"},
		"outside by a link": {func(s *site, data string) {
			must(t, os.Mkdir(filepath.Join(s.dir, "allowed"), 0o755))
			must(t, os.Symlink(t.TempDir(), filepath.Join(s.dir, "allowed/link")))
			s.policy.AllowMounts = []string{filepath.Join(s.dir, "allowed")}
			s.storage.Copies, s.storage.Binds = []string{data}, map[string]string{data: filepath.Join(s.dir, "allowed/link/data")}
		}, fail.Refused, "binds "},
		"missing": {func(s *site, data string) {
			s.storage.Binds = map[string]string{data: filepath.Join(s.dir, "none")}
		}, fail.Refused, "not there"},
		"another kind": {func(s *site, data string) {
			s.storage.Binds = map[string]string{data: dir(s, "other/f", "") + "/f"}
		}, fail.Refused, "directory at the source and a file here"},
		"misspelt":       {func(s *site, data string) { s.storage.Copies = []string{data + "x"} }, fail.Usage, "does not bind"},
		"misspelt remap": {func(s *site, data string) { s.storage.Binds = map[string]string{data + "x": "/y"} }, fail.Usage, "does not bind"},
		"replaced since it was bound": {func(s *site, data string) {
			// the container has another file than the host at the same path
			file, other := dir(s, "conf/f", "x")+"/f", dir(s, "conf/g", "x")+"/g"
			s.binding(map[string]string{other: file})
			s.storage.Copies = []string{file}
		}, fail.Unsupported, "was replaced"},
		"a device": {func(s *site, data string) {
			s.binding(map[string]string{"/dev/null": "/dev/null"})
			s.storage.Copies = []string{"/dev/null"}
		}, fail.Unsupported, "is a device"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, data := volumeSite(t)
			c.set(s, data)
			rep, err := s.send(testContext(t))
			if cerr := s.check(rep, err); cerr != nil {
				t.Error(cerr)
			}
			var f *fail.Fault
			if !errors.As(err, &f) || f.Code != c.code || !strings.Contains(f.Error(), c.words) || s.wasPaused() {
				t.Errorf("%v (stopped: %v), want %s with %q", err, s.wasPaused(), c.code, c.words)
			}
			if b, err := os.ReadFile(filepath.Join(s.dir, "other/f")); err == nil && string(b) != "theirs" && string(b) != "" {
				t.Errorf("what was in the way is %q", b)
			}
		})
	}
}

// A container that comes back finds its place, if nobody has used it meanwhile.
func TestWhatIsLeftMakesRoom(t *testing.T) {
	for _, touched := range []bool{false, true} {
		s, data := volumeSite(t)
		away := filepath.Join(s.dir, "away")
		s.storage.Copies, s.storage.Binds = []string{data}, map[string]string{data: away}
		rep, err := s.send(testContext(t))
		if cerr := s.check(rep, err); err != nil || cerr != nil {
			t.Fatalf("%v, %v", err, cerr)
		}
		must(t, os.WriteFile(filepath.Join(away, "since"), []byte("news"), 0o600))
		if touched {
			must(t, os.WriteFile(filepath.Join(data, "theirs"), nil, 0o600))
		}
		// the way back: what was the destination is the source of another site with the same directories
		back := newSite(t)
		back.dir, back.outcomes = s.dir, s.outcomes
		back.binding(map[string]string{away: away})
		back.storage = migrate.StorageOptions{Copies: []string{away}, Binds: map[string]string{away: data}, Left: filepath.Join(s.dir, "left-there")}
		rep, err = back.send(testContext(t))
		if touched {
			var f *fail.Fault
			if !errors.As(err, &f) || f.Code != fail.Refused || !strings.Contains(f.Error(), "nothing is overwritten") {
				t.Errorf("touched: %v, %+v", err, rep.Storage)
			}
			continue
		}
		if err != nil || howOf(rep, away) != "copied" {
			t.Fatalf("%v, %+v", err, rep.Storage)
		}
		mustEqualTrees(t, away, data)
		noneLeft(t, filepath.Join(filepath.Dir(data), ".*"))
	}
}

// Files that an engine makes go to a directory of the agent's own, or are made there.
func TestEnginesFiles(t *testing.T) {
	if _, err := os.Stat("/etc/hosts"); err != nil {
		t.Skip("SKIPPED: this machine has no /etc/hosts")
	}
	s := newSite(t)
	// the container, a process of this machine, has these files at these paths
	s.binding(map[string]string{"/etc/hosts": "/etc/hosts", "/etc/resolv.conf": "/etc/resolv.conf"})
	s.storage.KeepDNS = true
	rep, err := s.send(testContext(t))
	var f *fail.Fault
	if err == nil || !errors.As(err, &f) || !strings.Contains(f.Error(), "/etc/hosts") {
		t.Fatalf("the host's own hosts file was bound for writing: %v, %+v", err, rep.Storage)
	}
	s.binding(map[string]string{"/etc/resolv.conf": "/etc/resolv.conf"})
	if rep, err = s.send(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if cerr := s.check(rep, err); cerr != nil {
		t.Error(cerr)
	}
	if howOf(rep, "/etc/resolv.conf") != "carried" {
		t.Errorf("%+v", rep.Storage)
	}
	want, err := os.ReadFile("/etc/resolv.conf")
	must(t, err)
	own := filepath.Join(s.dir, "dst-files", fake.Container(contID).Namespace, contID, "resolv.conf")
	if got, err := os.ReadFile(own); err != nil || string(got) != string(want) {
		t.Errorf("resolv.conf there is %q, %v", got, err)
	}
	if c, _, err := s.dst.Inspect(testContext(t), contID); err != nil || !strings.Contains(string(c.Spec), own) {
		t.Errorf("the record is %s, %v", c.Spec, err)
	}
}
