package testbed

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"migrate/testbed/images"
	"migrate/testbed/rootfs"
)

// The images that a testbed can make.
const (
	ImageRedis = "redis" // testbed/redis:latest, a redis server run by an unprivileged user
	ImageTools = "tools" // testbed/tools:latest, the program of testbed/cmd/workload

	ImageDatabases = "databases" // testbed/databases:latest, servers that keep data, and their clients
	ImageWeb       = "web"       // testbed/web:latest, web servers, proxies, sshd
	ImageLanguages = "languages" // testbed/languages:latest, interpreters
	ImagePrograms  = "programs"  // testbed/programs:latest, a compiler, tmux and the like

	ImageSubjects = "subjects" // testbed/subjects:latest, the program of testbed/cmd/workload with the servers that it works with
)

// larder are the images that are made of a tree of their own, which takes a while to build and some space to keep.
var larder = map[string]func() images.Image{
	ImageDatabases: images.Databases,
	ImageWeb:       images.Web,
	ImageLanguages: images.Languages,
	ImagePrograms:  images.Programs,
}

// ImageNames lists the images that a testbed can make.
func ImageNames() []string {
	return append([]string{ImageRedis, ImageSubjects, ImageTools}, slices.Sorted(maps.Keys(larder))...)
}

// Images says which images go to which hosts.
type Images struct {
	Names    []string
	Hosts    []string // default: all
	Workload string   // static test program for ImageTools; default: built with go
}

// Import builds images, if they are not cached, and imports them into hosts.
func (t *Testbed) Import(ctx context.Context, want Images) error {
	archives, err := buildImages(ctx, t.state.Root, want, t.log)
	if err != nil {
		return err
	}
	hosts := t.hosts
	if len(want.Hosts) > 0 {
		if hosts, err = t.pick(want.Hosts); err != nil {
			return err
		}
	}
	return importAll(ctx, hosts, archives)
}

func (t *Testbed) pick(names []string) ([]*Host, error) {
	var hosts []*Host
	for _, name := range names {
		h := t.Host(name)
		if h == nil {
			return nil, fmt.Errorf("testbed %s has no host %q", t.Name, name)
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// buildImages returns the archives of the images.
func buildImages(ctx context.Context, root string, want Images, log *slog.Logger) ([]string, error) {
	var archives []string
	for _, name := range want.Names {
		image, done, err := describe(ctx, name, want.Workload)
		if err != nil {
			return nil, err
		}
		tree, err := treeOf(ctx, name, root, log)
		if err != nil {
			done()
			return nil, err
		}
		archive, err := images.Build(ctx, theCache(), tree, image)
		done()
		if err != nil {
			return nil, err
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// treeOf is what the image is made of: the hosts' root, or the larder.
func treeOf(ctx context.Context, name, root string, log *slog.Logger) (string, error) {
	if name == ImageSubjects {
		return rootfs.Build(ctx, theCache(), rootfs.Larder(images.Packages(images.Subjects(""))), log)
	}
	if larder[name] == nil {
		return root, nil
	}
	var all []images.Image
	for _, image := range larder {
		all = append(all, image())
	}
	return rootfs.Build(ctx, theCache(), rootfs.Larder(images.Packages(all...)), log)
}

func describe(ctx context.Context, name, workload string) (image images.Image, done func(), err error) {
	switch name {
	case ImageRedis:
		return images.Redis(), func() {}, nil
	case ImageTools, ImageSubjects:
		make := images.Tools
		if name == ImageSubjects {
			make = images.Subjects
		}
		if workload != "" {
			return make(workload), func() {}, nil
		}
		built, done, err := buildWorkload(ctx)
		return make(built), done, err
	}
	if make := larder[name]; make != nil {
		return make(), func() {}, nil
	}
	return image, nil, fmt.Errorf("image %q: known are %s", name, strings.Join(ImageNames(), ", "))
}

// buildWorkload compiles the test program; done removes it.
func buildWorkload(ctx context.Context) (path string, done func(), err error) {
	return buildProgram(ctx, "workload", "migrate/testbed/cmd/workload")
}

// buildProgram compiles a program of this project; done removes it.
func buildProgram(ctx context.Context, name, pkg string) (path string, done func(), err error) {
	dir, err := os.MkdirTemp("", "migrate-testbed-"+name+"-")
	if err != nil {
		return "", nil, err
	}
	path = filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", nil, fmt.Errorf("compile %s (run this inside the project, or give the compiled one): %w: %s", pkg, err, strings.TrimSpace(string(out)))
	}
	return path, func() { _ = os.RemoveAll(dir) }, nil
}

func importAll(ctx context.Context, hosts []*Host, archives []string) error {
	var work errgroup.Group
	for _, h := range hosts {
		work.Go(func() error {
			for _, archive := range archives {
				if err := h.ImportImage(ctx, archive); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return work.Wait()
}

// ImportImage imports an archive of an image, a file of the machine, into the
// host's containerd, or into Docker where there is Docker.
func (h *Host) ImportImage(ctx context.Context, archive string) error {
	f, err := os.Open(archive)
	if err != nil {
		return fmt.Errorf("host %s: import an image: %w", h.Name, err)
	}
	defer f.Close()
	argv := []string{"ctr", "images", "import", "--local", "-"}
	switch {
	case h.state.InContainerd:
		argv = []string{"sh", "-euc", loadScript}
	case h.bed.state.Docker != DockerNone:
		argv = []string{"docker", "load"}
	}
	cmd := h.Command(ctx, argv...)
	cmd.Stdin = f
	_, err = output(cmd, h.Name, slices.Concat(argv, []string{archive}))
	return err
}

// loadScript has Docker keep the image in containerd, under a name by which Docker finds it.
const loadScript = `
docker load >/dev/null
for name in $(ctr -n moby images ls -q | grep ^testbed/); do
	ctr -n moby images tag --force $name docker.io/$name >/dev/null
	ctr -n moby images rm $name >/dev/null
done
`
