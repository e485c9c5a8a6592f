package scenarios

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/layers/layertest"
)

// manyFiles is how many entries the RW layer has at least.
const manyFiles = 10_000

// TestFiles moves an RW layer with entries of every kind, made through the container's own root so that the overlay
// file system makes whiteouts, opaque directories and copies of the image's files by itself.
func TestFiles(t *testing.T) {
	t.Parallel()
	const id = "files"
	s := runServer(t, hostA, id, serverFlags{memory: 1, appending: true})
	root := rootOf(t, hostA, id)
	changeImage(t, root)
	changeRandomly(t, filepath.Join(root, "data"))
	parts := []string{"data/random", "etc", "usr", "opt", "var", "srv"}
	// directories that the image implies, such as /usr, have the time at which a host unpacked it
	seen := []string{"data/random", "etc", "usr/bin", "usr/share", "opt", "var", "srv"}
	wantUpper, wantRoot := pictures(t, upperOf(t, hostA, id), parts), pictures(t, root, seen)
	n := 0
	for _, pic := range wantUpper {
		n += len(pic)
	}
	kinds := kindsOf(wantUpper)
	t.Logf("%d entries in the RW layer: %v", n, kinds)
	if n < manyFiles {
		t.Errorf("%d entries in the RW layer, want %d", n, manyFiles)
	}
	for _, kind := range []string{"file", "directory", "symlink", "fifo", "socket", "whiteout", "opaque", "hard link", "sparse", "attribute"} {
		if kinds[kind] == 0 {
			t.Errorf("the RW layer has no entry of the kind %s", kind)
		}
	}

	to := startAgent(t, hostB)
	rep := send(t, hostA, id, to, "--json").moved(t)
	checkReport(t, rep)
	s.assertMoved(t, hostA, hostB)
	compare(t, "the RW layer", wantUpper, pictures(t, upperOf(t, hostB, id), parts))
	root = rootOf(t, hostB, id)
	compare(t, "the container's root", wantRoot, pictures(t, root, seen))
	lines := appended(t, root)
	eventually(t, soon, "the appending process goes on", func() bool { return appended(t, root) > lines })
	s.finish(t)
	assertNothingUnderWay(t, hostB, to.dir)
}

// appended checks the numbers that the container appends to a file, and returns the last.
func appended(t *testing.T, root string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "data/appended"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for l := range strings.Lines(string(text)) {
		if !strings.HasSuffix(l, "\n") {
			break // being written
		}
		if n++; l != fmt.Sprintf("%d\n", n) {
			t.Fatalf("line %d of the file that is appended to is %q", n, l)
		}
	}
	return n
}

// changeImage changes what comes from the image.
func changeImage(t *testing.T, root string) {
	t.Helper()
	at := func(p string) string { return filepath.Join(root, p) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Remove(at("etc/group")))                          // whiteout
	must(os.RemoveAll(at("etc/dpkg")))                        // whiteout of a directory, or nothing
	must(os.RemoveAll(at("usr/share/bash-completion")))       //
	must(os.RemoveAll(at("usr/share/base-files")))            // made anew: opaque
	must(os.MkdirAll(at("usr/share/base-files/new"), 0o2751)) //
	must(os.WriteFile(at("usr/share/base-files/a"), []byte("a"), 0o600))
	must(os.Chmod(at("etc/passwd"), 0o640))                // copied up for its mode
	must(os.Link(at("etc/passwd"), at("etc/passwd.link"))) // second name of a file of the image
	must(unix.Setxattr(at("etc/passwd"), "user.note", []byte("x"), 0))
	must(os.Remove(at("usr/bin/wc")))                      // a file becomes a directory
	must(os.MkdirAll(at("usr/bin/wc/deep/deeper"), 0o755)) //
	must(os.RemoveAll(at("var/mail")))                     // a directory becomes a file, if it was there
	must(os.MkdirAll(at("var"), 0o755))
	must(os.WriteFile(at("var/mail"), nil, 0o644)) //
	must(os.MkdirAll(at("srv/moved"), 0o755))
	moved := imageDirectory(t, at("usr/share"))
	if err := os.Rename(filepath.Join(at("usr/share"), moved), at("srv/moved/"+moved)); err != nil { // redirect, where the overlay does that
		t.Logf("rename a directory of the image: %v", err)
	}
	must(os.MkdirAll(at("opt"), 0o755))
	sparse, err := os.Create(at("opt/sparse"))
	must(err)
	defer sparse.Close()
	for _, off := range []int64{0, 300 << 20, 1<<30 - 5} {
		_, err := sparse.WriteAt([]byte("here"), off)
		must(err)
	}
	must(sparse.Truncate(1 << 30))
}

// imageDirectory picks a directory of the image below dir.
func imageDirectory(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != "base-files" {
			return e.Name()
		}
	}
	t.Fatalf("no directory in %s", dir)
	return ""
}

// changeRandomly fills dir with random trees until there are enough entries, and changes them.
func changeRandomly(t *testing.T, dir string) {
	t.Helper()
	const perTree = 100
	for n, seed := 0, uint64(1); n < manyFiles; seed++ {
		tree := filepath.Join(dir, "random", fmt.Sprint(seed))
		if err := os.MkdirAll(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := layertest.Populate(tree, perTree, seed); err != nil {
			t.Fatal(err)
		}
		if err := layertest.NewMutator(tree, seed).Mutate(10); err != nil {
			t.Fatal(err)
		}
		_ = filepath.WalkDir(tree, func(string, os.DirEntry, error) error { n++; return nil })
	}
}

// pictures takes a picture of each part of a tree that is there.
func pictures(t *testing.T, root string, parts []string) map[string]layertest.Picture {
	t.Helper()
	pics := map[string]layertest.Picture{}
	for _, part := range parts {
		if _, err := os.Lstat(filepath.Join(root, part)); err != nil {
			continue
		}
		pic, err := layertest.Snapshot(filepath.Join(root, part))
		if err != nil {
			t.Fatal(err)
		}
		pics[part] = pic
	}
	return pics
}

func compare(t *testing.T, what string, want, got map[string]layertest.Picture) {
	t.Helper()
	for part := range want {
		diff := layertest.Diff(want[part], got[part])
		if len(diff) > 0 {
			t.Errorf("%s: %d differences in %s:\n%s", what, len(diff), part, strings.Join(diff[:min(len(diff), 10)], "\n"))
		}
	}
	for part := range got {
		if want[part] == nil {
			t.Errorf("%s: there is %s, which was not there before", what, part)
		}
	}
}

// kindsOf counts what an RW layer has.
func kindsOf(pics map[string]layertest.Picture) map[string]int {
	types := map[uint32]string{
		unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFLNK: "symlink", unix.S_IFIFO: "fifo", unix.S_IFSOCK: "socket",
	}
	n := map[string]int{}
	for _, pic := range pics {
		for _, line := range pic {
			var mode uint32
			_, _ = fmt.Sscanf(line, "mode=%v", &mode)
			n[types[mode&unix.S_IFMT]]++
			for kind, is := range map[string]bool{
				"whiteout":  line == "whiteout",
				"opaque":    strings.Contains(line, "overlay.opaque"),
				"redirect":  strings.Contains(line, "overlay.redirect"),
				"hard link": strings.Contains(line, " names="),
				"attribute": strings.Contains(line, " user."),
				"sparse":    strings.Contains(line, "] [") || strings.Contains(line, "data=[]") && !strings.Contains(line, "size=0 "),
			} {
				if is {
					n[kind]++
				}
			}
		}
	}
	delete(n, "")
	return n
}
