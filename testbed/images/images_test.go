package images

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"migrate/testbed/internal/cache"
)

// miniature is a tree with two packages, as dpkg leaves it.
func miniature(t *testing.T) string {
	tree := t.TempDir()
	for path, content := range map[string]string{
		"var/lib/dpkg/status": "Package: app\nDepends: libc6 (>= 2), gone | lib-virtual, adduser\n\n" +
			"Package: libc6\nProvides: lib-virtual (= 1)\n\nPackage: adduser\n",
		"var/lib/dpkg/info/app.list":         "/.\n/usr\n/usr/bin\n/usr/bin/app\n/usr/share/doc/app\n/usr/lost\n",
		"var/lib/dpkg/info/libc6:amd64.list": "/lib/libc.so\n/lib/libm.so.6.1\n",
		"usr/bin/app":                        "app",
		"usr/lib/libc.so":                    "libc",
		"usr/lib/libm.so.6.1":                "libm",
	} {
		full := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"lib": "usr/lib", "usr/lib/libm.so.6": "libm.so.6.1", "usr/lib/libx.so.1": "libx.so.1.2"} {
		if err := os.Symlink(target, filepath.Join(tree, link)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestLayerFiles(t *testing.T) {
	c, err := readCatalogue(miniature(t))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	below, err := Layer{Packages: []string{"libc6"}}.files(c, have)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := paths(below), []string{"usr/lib/libc.so", "usr/lib/libm.so.6", "usr/lib/libm.so.6.1"}; !slices.Equal(got, want) {
		t.Errorf("the lower layer has %v, want %v", got, want)
	}
	above, err := Layer{Packages: []string{"app"}, Files: []File{{Path: "a"}}}.files(c, have)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := paths(above), []string{"a", "usr", "usr/bin", "usr/bin/app"}; !slices.Equal(got, want) {
		t.Errorf("the upper layer has %v, want %v", got, want)
	}
	if _, err := (Layer{Packages: []string{"absent"}}).files(c, have); err == nil {
		t.Error("a package that is not installed is accepted")
	}
}

func paths(files []File) []string {
	var list []string
	for _, file := range files {
		list = append(list, file.Path)
	}
	return list
}

func TestSameInputSameBytes(t *testing.T) {
	tree := miniature(t)
	image := Image{Name: "testbed/x:latest", Layers: []Layer{{Packages: []string{"app"}}}}
	var archives [2][]byte
	for i := range archives {
		path, err := Build(t.Context(), cache.Cache{Dir: t.TempDir()}, tree, image)
		if err != nil {
			t.Fatal(err)
		}
		if archives[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds of one image differ")
	}
}
