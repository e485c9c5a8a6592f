package storage

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

const testID = "0123456789abcdef0123456789abcdef"

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// holds compares a directory's tree with a list of files and their content, and directories that end with a slash.
func holds(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, p)
		switch {
		case err != nil:
			return err
		case rel == ".":
		case d.IsDir():
			got[rel+"/"] = ""
		default:
			b, err := os.ReadFile(p)
			got[rel] = string(b)
			return err
		}
		return nil
	})
	a, _ := json.Marshal(got)
	b, _ := json.Marshal(want)
	if err != nil || string(a) != string(b) {
		t.Errorf("%s holds %s, want %s (%v)", dir, a, b, err)
	}
}

// prepared makes a place and remembers what the note said before anything was made.
func prepared(t *testing.T, path string, kind Type, left bool) (p *Place, noted *Place) {
	t.Helper()
	p, err := NewPlace(path, kind, "came", testID, left)
	if err != nil {
		t.Fatal(err)
	}
	noted = &Place{}
	err = p.Prepare(func() error {
		b, err := json.Marshal(p)
		return errors.Join(err, json.Unmarshal(b, noted))
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, noted
}

func TestPlaceOfADirectory(t *testing.T) {
	t.Run("new", func(t *testing.T) {
		dir := t.TempDir()
		p, noted := prepared(t, filepath.Join(dir, "srv/data"), Dir, false)
		write(t, filepath.Join(p.Work, "f"), "came")
		holds(t, dir, map[string]string{"srv/": "", "srv/data/": "", "srv/data/f": "came"})
		// the next agent knows no more than the note says
		for range 2 {
			if err := noted.Undo(); err != nil {
				t.Fatal(err)
			}
		}
		holds(t, dir, map[string]string{})
	})
	t.Run("empty", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Chmod(dir, 0o751|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
		p, noted := prepared(t, dir, Dir, false)
		write(t, filepath.Join(p.Work, "a/f"), "came")
		if err := os.Chmod(p.Work, 0o700); err != nil { // as the content says
			t.Fatal(err)
		}
		if err := noted.Undo(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, map[string]string{})
		if info, err := os.Stat(dir); err != nil || info.Mode() != os.ModeDir|0o751|os.ModeSticky {
			t.Errorf("the directory was left with %v, %v", info.Mode(), err)
		}
	})
	t.Run("two at once", func(t *testing.T) {
		dir := t.TempDir()
		first, _ := prepared(t, dir, Dir, false)
		second, err := NewPlace(dir, Dir, "", testID, false)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Prepare(func() error { return nil }); !errors.Is(err, ErrInTheWay) {
			t.Errorf("two migrations fill one directory: %v", err)
		}
		write(t, filepath.Join(dir, "f"), "the first one's")
		if err := second.Undo(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, map[string]string{"f": "the first one's"})
		if err := first.Undo(); err != nil {
			t.Fatal(err)
		}
		third, _ := prepared(t, dir, Dir, false)
		if err := third.Keep(); err != nil {
			t.Error(err)
		}
	})
	t.Run("left behind", func(t *testing.T) {
		for _, keep := range []bool{false, true} {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "data/old"), "left")
			p, noted := prepared(t, filepath.Join(dir, "data"), Dir, true)
			write(t, filepath.Join(p.Work, "new"), "came")
			if keep {
				if err := noted.Keep(); err != nil {
					t.Fatal(err)
				}
				holds(t, dir, map[string]string{"data/": "", "data/new": "came"})
				continue
			}
			if err := noted.Undo(); err != nil {
				t.Fatal(err)
			}
			holds(t, dir, map[string]string{"data/": "", "data/old": "left"})
		}
	})
	t.Run("in the way", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "data/f"), "theirs")
		for path, kind := range map[string]Type{"data": Dir, "data/f": Dir} {
			if _, err := NewPlace(filepath.Join(dir, path), kind, "came", testID, false); !errors.Is(err, ErrInTheWay) {
				t.Errorf("%s: %v", path, err)
			}
		}
		if _, err := NewPlace(filepath.Join(dir, "data/f"), File, "came", testID, false); !errors.Is(err, ErrInTheWay) {
			t.Errorf("a file over a file: %v", err)
		}
		if err := os.Symlink("/nowhere", filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		if _, err := NewPlace(filepath.Join(dir, "link"), Dir, "", testID, false); !errors.Is(err, ErrInTheWay) {
			t.Errorf("a link that leads nowhere: %v", err)
		}
	})
	t.Run("others came into a directory on the way", func(t *testing.T) {
		dir := t.TempDir()
		_, noted := prepared(t, filepath.Join(dir, "srv/data"), Dir, false)
		write(t, filepath.Join(dir, "srv/other"), "theirs")
		if err := noted.Undo(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, map[string]string{"srv/": "", "srv/other": "theirs"})
	})
	t.Run("never begun", func(t *testing.T) {
		dir := t.TempDir()
		p, err := NewPlace(dir, Dir, "", testID, false)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "f"), "theirs, since we looked")
		if err := p.Undo(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, map[string]string{"f": "theirs, since we looked"})
	})
}

func TestPlaceOfAFile(t *testing.T) {
	nothing := func() error { return nil }
	for _, left := range []bool{false, true} {
		dir := t.TempDir()
		path, before := filepath.Join(dir, "conf"), map[string]string{}
		if left {
			write(t, path, "left")
			before = map[string]string{"conf": "left"}
		}
		p, noted := prepared(t, path, File, left)
		write(t, filepath.Join(p.Work, "came"), "came")
		if err := p.Publish(nothing); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "came" {
			t.Errorf("published: %q, %v", b, err)
		}
		noted.Public = true // as it was noted before
		if err := noted.Undo(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, before)
	}
	t.Run("kept", func(t *testing.T) {
		dir := t.TempDir()
		p, _ := prepared(t, filepath.Join(dir, "conf"), File, false)
		write(t, filepath.Join(p.Work, "came"), "came")
		if err := errors.Join(p.Publish(nothing), p.Keep()); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, map[string]string{"conf": "came"})
	})
	t.Run("something appeared meanwhile", func(t *testing.T) {
		dir := t.TempDir()
		p, _ := prepared(t, filepath.Join(dir, "conf"), File, false)
		write(t, filepath.Join(p.Work, "came"), "came")
		write(t, p.Path, "theirs")
		if err := p.Publish(nothing); err == nil {
			t.Error("a file that appeared was replaced")
		}
		if err := p.Undo(); err != nil {
			t.Fatal(err)
		}
		holds(t, dir, map[string]string{"conf": "theirs"})
	})
}

func TestLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "left")
	if _, found, err := FindLeft(dir, "/srv/data"); found || err != nil {
		t.Fatalf("found %v, %v", found, err)
	}
	l := Left{Path: "/srv/data", Namespace: "default", Container: "db", Print: "00ff", Migration: testID}
	if err := l.Note(dir); err != nil {
		t.Fatal(err)
	}
	if got, found, err := FindLeft(dir, "/srv/data/"); !found || err != nil || got != l {
		t.Errorf("%+v, %v, %v", got, found, err)
	}
	if _, found, _ := FindLeft(dir, "/srv"); found {
		t.Error("found by another path")
	}
	for range 2 {
		if err := ForgetLeft(dir, "/srv/data"); err != nil {
			t.Fatal(err)
		}
	}
	if _, found, _ := FindLeft(dir, "/srv/data"); found {
		t.Error("found after it was forgotten")
	}
}

func TestProbe(t *testing.T) {
	here, there := t.TempDir(), t.TempDir()
	write(t, filepath.Join(here, "file"), "x")
	for kind, path := range map[Type]string{Dir: here, File: filepath.Join(here, "file")} {
		p := NewProbe(0)
		if p.Seen(path, kind) {
			t.Error("seen before it was answered")
		}
		remove, err := p.Answer(path, kind)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Seen(path, kind) || p.Seen(there, Dir) {
			t.Errorf("%s: seen here %v, elsewhere %v", kind, p.Seen(path, kind), p.Seen(there, Dir))
		}
		wrong := p
		wrong.Nonce = NewProbe(0).Nonce
		if wrong.Seen(path, kind) {
			t.Error("another answer counts")
		}
		if err := remove(); err != nil || p.Seen(path, kind) {
			t.Errorf("left: %v", err)
		}
	}
	for _, p := range []Probe{{Name: "../x", Nonce: "ABCDEFGHIJKLMNOPQRST"}, {Name: ".migrate-probe-ABCDEFGHIJKLMNOPQRST", Nonce: "a\nb"}, {Name: "", Nonce: ""}} {
		if _, err := p.Answer(here, Dir); err == nil {
			t.Errorf("%q was answered", p.Name)
		}
	}
}

func TestResolvConf(t *testing.T) {
	const stub = "# by hand\nnameserver 127.0.0.53\noptions edns0\nsearch example.net\n"
	for name, c := range map[string]struct {
		etc, run, want string
		own            bool
	}{
		"the host's network":      {etc: stub, want: stub},
		"reachable":               {etc: "nameserver 10.0.0.1\n", own: true, want: "nameserver 10.0.0.1\n"},
		"one of two":              {etc: "nameserver ::1\nnameserver fe80::1%eth0\n", own: true, want: "nameserver fe80::1%eth0\n"},
		"what resolved asks":      {etc: stub, run: "nameserver 10.0.0.2\n", own: true, want: "nameserver 10.0.0.2\n"},
		"nothing better":          {etc: stub, own: true, want: "# by hand\noptions edns0\nsearch example.net\n"},
		"nothing better anywhere": {etc: stub, run: "nameserver 127.0.0.1\n", own: true, want: "# by hand\noptions edns0\nsearch example.net\n"},
	} {
		dir := t.TempDir()
		etc, run := filepath.Join(dir, "etc"), filepath.Join(dir, "run")
		write(t, etc, c.etc)
		if c.run != "" {
			write(t, run, c.run)
		}
		if got, err := ResolvConf(c.own, etc, run); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := ResolvConf(true, filepath.Join(t.TempDir(), "none"), ""); err != nil || len(got) != 0 {
		t.Errorf("without one: %q, %v", got, err)
	}
}
