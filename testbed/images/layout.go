package images

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const blobDir = v1.ImageBlobsDir + "/sha256"

// nameAnnotation gives the image its name when containerd imports it, see
// images.AnnotationImageName there.
const nameAnnotation = "io.containerd.image.name"

// layout writes an OCI layout, and the manifest of docker-save(1), into dir.
func (i Image) layout(ctx context.Context, tree, dir string) error {
	c, err := readCatalogue(tree)
	if err != nil {
		return err
	}
	var layers []v1.Descriptor
	var diffs []digest.Digest
	have := map[string]bool{}
	for n, layer := range i.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		files, err := layer.files(c, have)
		if err != nil {
			return fmt.Errorf("layer %d: %w", n, err)
		}
		descriptor, diff, err := layerBlob(dir, files)
		if err != nil {
			return fmt.Errorf("layer %d: %w", n, err)
		}
		layers, diffs = append(layers, descriptor), append(diffs, diff)
	}
	config, err := jsonBlob(dir, v1.MediaTypeImageConfig, i.config(diffs))
	if err != nil {
		return err
	}
	manifest, err := jsonBlob(dir, v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    config,
		Layers:    layers,
	})
	if err != nil {
		return err
	}
	return i.index(dir, manifest, config, layers)
}

func (i Image) config(diffs []digest.Digest) v1.Image {
	created := mtime.UTC()
	return v1.Image{
		Created:  &created,
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   v1.ImageConfig{User: i.User, Env: i.Env, Cmd: i.Cmd, WorkingDir: i.Dir},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: diffs},
	}
}

// index writes what leads a reader to the blobs.
func (i Image) index(dir string, manifest, config v1.Descriptor, layers []v1.Descriptor) error {
	manifest.Annotations = map[string]string{nameAnnotation: i.Name}
	_, tag, _ := strings.Cut(i.Name, ":")
	manifest.Annotations[v1.AnnotationRefName] = tag
	docker := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{blobPath(config), []string{i.Name}, nil}
	for _, layer := range layers {
		docker.Layers = append(docker.Layers, blobPath(layer))
	}
	return errors.Join(
		writeJSON(filepath.Join(dir, v1.ImageLayoutFile), v1.ImageLayout{Version: v1.ImageLayoutVersion}),
		writeJSON(filepath.Join(dir, v1.ImageIndexFile), v1.Index{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: v1.MediaTypeImageIndex,
			Manifests: []v1.Descriptor{manifest},
		}),
		writeJSON(filepath.Join(dir, "manifest.json"), []any{docker}),
	)
}

func blobPath(d v1.Descriptor) string { return blobDir + "/" + d.Digest.Encoded() }

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func jsonBlob(dir, mediaType string, value any) (v1.Descriptor, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, os.WriteFile(filepath.Join(dir, blobPath(d)), data, 0o644)
}

// layerBlob writes a compressed layer; diff is the digest before compression.
func layerBlob(dir string, files []File) (d v1.Descriptor, diff digest.Digest, err error) {
	temp, err := os.CreateTemp(dir, "layer-")
	if err != nil {
		return d, "", err
	}
	defer temp.Close()
	plain, packed := digest.Canonical.Digester(), digest.Canonical.Digester()
	compressor, err := gzip.NewWriterLevel(io.MultiWriter(temp, packed.Hash()), gzip.BestSpeed)
	if err != nil {
		return d, "", err
	}
	if err := writeLayer(io.MultiWriter(compressor, plain.Hash()), files); err != nil {
		return d, "", err
	}
	if err := compressor.Close(); err != nil {
		return d, "", err
	}
	info, err := temp.Stat()
	if err != nil {
		return d, "", err
	}
	d = v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: packed.Digest(), Size: info.Size()}
	return d, plain.Digest(), os.Rename(temp.Name(), filepath.Join(dir, blobPath(d)))
}

// packLayout puts a layout into one archive.
func packLayout(dir, archive string) (err error) {
	out, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	w := tar.NewWriter(out)
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		file := File{Path: name, Mode: 0o644, Source: path}
		if entry.IsDir() {
			file = File{Path: name, Mode: fs.ModeDir | 0o755}
		}
		return file.write(w)
	})
	return errors.Join(err, w.Close())
}
