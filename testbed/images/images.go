// Package images makes container images out of the Debian tree of the hosts,
// without an engine, a registry or further downloads: a layer is the files of a few
// packages, taken from where they are installed.
//
// The same tree and the same [Image] give the same bytes, so that two images which
// begin with equal layers share them.
package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"migrate/testbed/internal/cache"
)

// builderVersion changes whenever the same image would get other bytes.
const builderVersion = "2"

// archiveName is the archive in its cache entry.
const archiveName = "image.tar"

// An Image says what an image consists of and what it runs.
type Image struct {
	Name   string // "testbed/redis:latest"
	Layers []Layer
	User   string
	Env    []string
	Cmd    []string
	Dir    string
}

// A Layer has the files of packages with their dependencies, less those that a
// layer below has, and files of its own.
type Layer struct {
	Packages []string
	Files    []File
}

// A File of a layer is a directory, a link, the copy of a file, or a content.
type File struct {
	Path    string // without a leading slash
	Mode    fs.FileMode
	Owner   int    // uid and gid
	Target  string // of a symbolic link
	Source  string `json:"-"` // file to copy; the key covers its content
	Content string
}

// Build returns the path of the image's archive, an OCI layout that Docker can load
// too, and makes it first if it is not cached.
func Build(ctx context.Context, c cache.Cache, tree string, image Image) (string, error) {
	key, err := image.key(tree)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", image.Name, err)
	}
	entry, err := c.Entry(ctx, key, func(ctx context.Context, dir string) error {
		return image.write(ctx, tree, filepath.Join(dir, archiveName))
	})
	if err != nil {
		return "", fmt.Errorf("image %s: %w", image.Name, err)
	}
	return filepath.Join(entry, archiveName), nil
}

// key covers the contents of copied files, not their names.
func (i Image) key(tree string) (string, error) {
	spec, err := json.Marshal(i)
	if err != nil {
		return "", err
	}
	inputs := []string{builderVersion, runtime.GOARCH, tree, string(spec)}
	for _, layer := range i.Layers {
		for _, file := range layer.Files {
			if file.Source == "" {
				continue
			}
			sum, err := hashFile(file.Source)
			if err != nil {
				return "", err
			}
			inputs = append(inputs, sum)
		}
	}
	return cache.Key("image", inputs...), nil
}

func hashFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// write lays the image out in a directory beside the archive and packs that.
func (i Image) write(ctx context.Context, tree, archive string) error {
	dir := archive + ".layout"
	if err := os.MkdirAll(filepath.Join(dir, blobDir), 0o755); err != nil {
		return err
	}
	if err := i.layout(ctx, tree, dir); err != nil {
		return err
	}
	if err := packLayout(dir, archive); err != nil {
		return fmt.Errorf("pack: %w", err)
	}
	return os.RemoveAll(dir)
}
