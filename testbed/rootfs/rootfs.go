// Package rootfs builds the Debian tree that all hosts of a testbed share as the
// lower layer of their root file system, and another one that images are made of,
// and keeps them in a cache.
//
//	dir, err := rootfs.Build(ctx, cache, rootfs.Default(), log)
package rootfs

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"migrate/testbed/internal/cache"
)

// builderVersion changes whenever the same Spec would give another tree.
const builderVersion = "1"

// treeName is the directory of the tree in its cache entry.
const treeName = "tree"

// A Spec says what a tree consists of.
type Spec struct {
	Suite    string   // Debian release
	Mirror   string   // empty: the default of the tool that builds the tree
	Packages []string // with their dependencies, without recommendations
	// Newer are packages that come from a later release, NewerSuite.
	Newer      []string
	NewerSuite string
	Preload    string // C source of the library the criu wrapper preloads; empty: a tree without CRIU
}

// packages are what every host has: engines, what migration needs, what images
// are made of, and what a person wants at hand when something goes wrong.
var packages = []string{
	"ca-certificates", "containerd", "containernetworking-plugins", "criu", "iperf3",
	"iproute2", "iptables", "iputils-ping", "nftables", "openssh-client", "openssh-server",
	"procps", "redis-server", "redis-tools", "runc", "util-linux",
}

// Default is the tree of a host with the given further packages.
func Default(preload string, extra ...string) Spec {
	all := append(slices.Clone(packages), extra...)
	slices.Sort(all)
	return Spec{
		Suite:    envOr("MIGRATE_TESTBED_SUITE", "forky"),
		Mirror:   os.Getenv("MIGRATE_TESTBED_MIRROR"),
		Packages: slices.Compact(all),
		Preload:  preload,
	}
}

// Docker26 is the tree of a host with Docker 26.1: Debian 13, with the CRIU of the release after it, since its own fails on
// recent kernels.
func Docker26(preload string, extra ...string) Spec {
	s := Default(preload, append(slices.Clone(extra), DockerPackages...)...)
	s.Suite, s.NewerSuite, s.Newer = "trixie", "forky", []string{"criu"}
	s.Packages = slices.DeleteFunc(s.Packages, func(p string) bool { return slices.Contains(s.Newer, p) })
	return s
}

// DockerPackages are those of Docker.
var DockerPackages = []string{"docker-cli", "docker.io"}

// Larder is a tree that no host runs: what images are made of, beyond what hosts have.
func Larder(packages []string) Spec {
	packages = slices.Clone(packages)
	slices.Sort(packages)
	return Spec{
		Suite:    envOr("MIGRATE_TESTBED_SUITE", "forky"),
		Mirror:   os.Getenv("MIGRATE_TESTBED_MIRROR"),
		Packages: slices.Compact(packages),
	}
}

// Build returns the directory of the tree, and makes it first if it is not cached.
func Build(ctx context.Context, c cache.Cache, spec Spec, log *slog.Logger) (string, error) {
	entry, err := c.Entry(ctx, spec.key(), func(ctx context.Context, dir string) error {
		log.Info("building a Debian tree, once", "suite", spec.Suite, "packages", len(spec.Packages))
		return spec.build(ctx, filepath.Join(dir, treeName))
	})
	if err != nil {
		return "", fmt.Errorf("build a Debian tree: %w", err)
	}
	return filepath.Join(entry, treeName), nil
}

func (s Spec) key() string {
	inputs := []string{builderVersion, runtime.GOARCH, s.Suite, strings.Join(s.Packages, " "), s.Preload, criuWrapper}
	if len(s.Newer) > 0 {
		inputs = append(inputs, s.NewerSuite, strings.Join(s.Newer, " "))
	}
	return cache.Key("root", inputs...)
}

func (s Spec) build(ctx context.Context, tree string) error {
	if err := s.debian(ctx, tree); err != nil {
		return err
	}
	if s.Preload != "" {
		if err := s.wrapCRIU(ctx, tree); err != nil {
			return err
		}
	}
	return tidy(tree)
}

// tidy removes what must not be the same on all hosts or is made anew by each.
func tidy(tree string) error {
	keys, err := filepath.Glob(filepath.Join(tree, "etc/ssh/ssh_host_*"))
	if err != nil {
		return err
	}
	for _, path := range append(keys, filepath.Join(tree, "etc/machine-id"), filepath.Join(tree, "etc/resolv.conf")) {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("tidy the tree: %w", err)
		}
	}
	return nil
}

func envOr(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}
