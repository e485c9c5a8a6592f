package pagemap

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Of what an earlier set is said to have, what may come later is left in the task, and the rest is put in, as is what the set says it has. A
// pages file that leads elsewhere is replaced, and what it leads to left alone.
func TestSettle(t *testing.T) {
	dir := t.TempDir()
	const p = PageSize
	f := File{PagesID: 3, Entries: []Entry{
		{Addr: 10 * p, Pages: 5, Flags: Parent},
		{Addr: 20 * p, Pages: 2, Flags: Present | Lazy},
		{Addr: 30 * p, Pages: 4, Flags: Parent},
		{Addr: 40 * p, Pages: 1, Flags: Parent},
		{Addr: 60 * p, Pages: 2, Flags: Lazy},
	}}
	if err := f.WriteFile(TaskPath(dir, 7)); err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, f.PagesName())); err != nil {
		t.Fatal(err)
	}
	later := []Range{{Start: 0, End: 2 * p}, {Start: 11 * p, End: 13 * p}, {Start: 14 * p, End: 31 * p}, {Start: 33 * p, End: 50 * p}}
	err := Settle(dir, 7, later, func(addr uint64, b []byte) error {
		for i := range b {
			b[i] = byte(addr / p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(TaskPath(dir, 7))
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{
		{Addr: 10 * p, Pages: 1, Flags: Present}, {Addr: 11 * p, Pages: 2, Flags: Lazy}, {Addr: 13 * p, Pages: 1, Flags: Present},
		{Addr: 14 * p, Pages: 1, Flags: Lazy}, {Addr: 20 * p, Pages: 2, Flags: Present}, {Addr: 30 * p, Pages: 1, Flags: Lazy},
		{Addr: 31 * p, Pages: 2, Flags: Present}, {Addr: 33 * p, Pages: 1, Flags: Lazy}, {Addr: 40 * p, Pages: 1, Flags: Lazy},
		{Addr: 60 * p, Pages: 2, Flags: Lazy},
	}
	if !slices.Equal(got.Entries, want) {
		t.Errorf("entries\n%+v, want\n%+v", got.Entries, want)
	}
	if first := firstBytes(t, dir, got); !bytes.Equal(first, []byte{10, 13, 20, 21, 31, 32}) {
		t.Errorf("pages %v", first)
	}
	if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "other" {
		t.Errorf("what the pages file led to holds %q, %v", b, err)
	}
}

// firstBytes are those of each page of the pages file.
func firstBytes(t *testing.T, dir string, f *File) (first []byte) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, f.PagesName()))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(b); i += PageSize {
		first = append(first, b[i])
	}
	return first
}

// sharedImage writes one that says where pages are.
func sharedImage(t *testing.T, entries ...Entry) (dir string, m Image) {
	t.Helper()
	dir = t.TempDir()
	f := File{PagesID: 5, Entries: entries}
	path := filepath.Join(dir, "pagemap-shmem-77.img")
	if err := f.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	list, err := List(dir)
	if err != nil || len(list) != 1 || !list[0].Shmem {
		t.Fatalf("%+v, %v", list, err)
	}
	return dir, list[0]
}

func TestLeave(t *testing.T) {
	const p = PageSize
	dir, m := sharedImage(t, Entry{Addr: 0, Pages: 2, Flags: Present}, Entry{Addr: 9 * p, Pages: 1, Flags: Parent})
	if err := Leave(m); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(m.Path)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Entry{{Addr: 0, Pages: 2, Flags: Lazy}, {Addr: 9 * p, Pages: 1, Flags: Lazy}}; !slices.Equal(got.Entries, want) {
		t.Errorf("entries %+v, want %+v", got.Entries, want)
	}
	if first := firstBytes(t, dir, got); len(first) > 0 {
		t.Errorf("pages %v", first)
	}
}

func TestKeep(t *testing.T) {
	const p = PageSize
	dir, m := sharedImage(t, Entry{Addr: 0, Pages: 9, Flags: Lazy})
	for _, keep := range [][]Range{{{p, 3 * p}, {8 * p, 9 * p}}, nil} {
		err := Keep(m, keep, func(off uint64, b []byte) error { b[0] = byte(off / p); return nil })
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(m.Path)
		if err != nil {
			t.Fatal(err)
		}
		var want []Entry
		var pages []byte
		if keep != nil {
			want, pages = []Entry{{Addr: p, Pages: 2, Flags: Present}, {Addr: 8 * p, Pages: 1, Flags: Present}}, []byte{1, 2, 8}
		}
		if first := firstBytes(t, dir, got); !slices.Equal(got.Entries, want) || !bytes.Equal(first, pages) {
			t.Errorf("entries %+v, pages %v", got.Entries, first)
		}
	}
	broken := errors.New("broken")
	if err := Keep(m, []Range{{0, p}}, func(uint64, []byte) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
}
