package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/opencontainers/go-digest"

	"migrate/internal/engine"
)

// netnsDirs are where a container's network namespace may be bound. A peer names the path, and a file is made there.
var netnsDirs = []string{"/run/netns", "/var/run/netns", "/run/docker/netns", unnamedDir}

// maxKey bounds snapshot keys and image names.
const maxKey = 1024

func validName(what, name string) error {
	if err := identifiers.Validate(name); err != nil {
		return fmt.Errorf("%s %q is not a name containerd takes: %w", what, name, err)
	}
	return nil
}

// validContainer checks the names of a description that came from a peer.
func validContainer(c *engine.Container) error {
	if err := validName("container id", c.ID); err != nil {
		return err
	}
	if err := validName("snapshotter", c.Snapshotter); err != nil {
		return err
	}
	if err := validKey("snapshot key", c.SnapshotKey); err != nil {
		return err
	}
	if err := validImage(c.Image); err != nil {
		return err
	}
	return validNetwork(c.Network)
}

func validKey(what, key string) error {
	if key == "" || len(key) > maxKey || strings.ContainsAny(key, "/\x00") {
		return fmt.Errorf("%s %q is empty, too long or holds a slash", what, key)
	}
	return nil
}

func validImage(img engine.Image) error {
	if img.Name == "" || len(img.Name) > maxKey || strings.ContainsAny(img.Name, "\x00\n ") {
		return fmt.Errorf("image name %q is empty, too long or holds blanks", img.Name)
	}
	for _, d := range []string{img.Target.Digest, img.ChainID} {
		// The chain id of an image without layers is empty.
		if _, err := digest.Parse(d); err != nil && !(d == "" && d == img.ChainID) {
			return fmt.Errorf("image %q: digest %q: %w", img.Name, d, err)
		}
	}
	for _, b := range img.Blobs {
		if _, err := digest.Parse(b.Digest); err != nil || b.Size < 0 {
			return fmt.Errorf("image %q: blob %q of %d bytes is not one", img.Name, b.Digest, b.Size)
		}
	}
	return nil
}

func validNetwork(n engine.Network) error {
	switch n.Mode {
	case engine.NetworkNone, engine.NetworkHost:
		return nil
	case engine.NetworkCNI:
		if n.Unnamed && filepath.Dir(n.NetNS) != unnamedDir {
			return fmt.Errorf("network namespace path %q, which is to be taken away, is not in %s: %w", n.NetNS, unnamedDir, engine.ErrUnsupported)
		}
		return validNetNS(n.NetNS)
	}
	return fmt.Errorf("network mode %q: %w", n.Mode, engine.ErrUnsupported)
}

// validNetNS allows names directly in the usual directories, none of which may be a link elsewhere.
func validNetNS(path string) error {
	dir, name := filepath.Split(path)
	dir = filepath.Clean(dir)
	if path != filepath.Clean(path) || name == "" || strings.HasPrefix(name, ".") {
		return fmt.Errorf("network namespace path %q is not a plain absolute path", path)
	}
	for _, allowed := range netnsDirs {
		if dir == allowed {
			return noLinks(dir)
		}
	}
	return fmt.Errorf("network namespace path %q is not in one of %s: %w",
		path, strings.Join(netnsDirs, ", "), engine.ErrUnsupported)
}

// noLinks refuses a directory that is a symbolic link, its parents included but for /var/run, which is one everywhere.
func noLinks(dir string) error {
	for ; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Lstat(dir)
		if os.IsNotExist(err) || dir == "/var/run" {
			continue
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", dir, err)
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
	}
	return nil
}
