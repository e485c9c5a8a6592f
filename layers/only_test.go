package layers_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"migrate/layers"
	"migrate/layers/layertest"
)

// TestOnlyOneName sends one file of a directory in two rounds.
func TestOnlyOneName(t *testing.T) {
	p := newPair(t)
	at := func(dir, name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"conf": "first", "confx": "no", "other": "no"} {
		if err := os.WriteFile(at(p.src, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	o := layers.Options{Only: "conf", Racy: -1}
	p.round(o)
	if err := errors.Join(os.WriteFile(at(p.src, "conf"), []byte("second, longer"), 0o600), os.Chown(at(p.src, "conf"), 3, 4), os.Remove(at(p.src, "other"))); err != nil {
		t.Fatal(err)
	}
	o.Final = true
	p.round(o)
	names, err := os.ReadDir(p.dst)
	if err != nil || len(names) != 1 {
		t.Errorf("the destination has %v, %v", names, err)
	}
	if err := errors.Join(os.Remove(at(p.src, "confx"))); err != nil {
		t.Fatal(err)
	}
	want, werr := layertest.Snapshot(p.src)
	got, gerr := layertest.Snapshot(p.dst)
	delete(want, ".")
	delete(got, ".")
	delete(want, "")
	delete(got, "")
	if d := layertest.Diff(want, got); werr != nil || gerr != nil || len(d) != 0 {
		t.Errorf("the file differs: %v, %v, %v", d, werr, gerr)
	}
	use, err := layers.MeasureOnly(context.Background(), p.src, "none")
	if err != nil || use.Entries != 1 {
		t.Errorf("what is not there measures %+v, %v", use, err)
	}
}

// TestFingerprint: every change shows, and nothing else does.
func TestFingerprint(t *testing.T) {
	p := newPair(t)
	m := populated(t, p.src, 60, 7)
	p.round(layers.Options{Final: true, Racy: -1})
	sent, ok := p.index.Fingerprint()
	if !ok {
		t.Fatal("no fingerprint of a tree at rest")
	}
	read := func() layers.Fingerprint {
		t.Helper()
		f, err := layers.ReadFingerprint(context.Background(), p.src, "")
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	if read() != sent {
		t.Fatal("the tree has another fingerprint than when it was sent")
	}
	if err := os.Chtimes(p.src, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if read() != sent {
		t.Error("the directory's own times count")
	}
	last := sent
	for range 10 {
		if err := m.Mutate(1); err != nil {
			t.Fatal(err)
		}
	}
	if read() == last {
		t.Error("changes do not show")
	}
	file := filepath.Join(p.src, "same")
	if err := os.WriteFile(file, []byte("aaaa"), 0o600); err != nil {
		t.Fatal(err)
	}
	last = read()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	// equal in size and mtime: the ctime tells, once its clock has ticked
	for end := time.Now().Add(5 * time.Second); read() == last; {
		if time.Now().After(end) {
			t.Fatal("a change that hides its mtime does not show")
		}
		if err := errors.Join(os.WriteFile(file, []byte("bbbb"), 0o600), os.Chtimes(file, info.ModTime(), info.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	only, err := layers.ReadFingerprint(context.Background(), p.src, "same")
	if err != nil || only == read() {
		t.Errorf("one name has the fingerprint of all: %v", err)
	}
	if err := os.WriteFile(filepath.Join(p.src, "other"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := layers.ReadFingerprint(context.Background(), p.src, "same"); err != nil || again != only {
		t.Errorf("other names count: %v", err)
	}
}
