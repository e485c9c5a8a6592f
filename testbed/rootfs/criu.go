package rootfs

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// criuWrapper stands before criu in the hosts' PATH.
//
//go:embed criu.sh
var criuWrapper string

const (
	wrapperPath = "usr/local/sbin/criu"
	preloadPath = "usr/local/lib/testbed/prlimit.so"
)

// wrapCRIU installs the wrapper and, compiled, the library that it preloads.
func (s Spec) wrapCRIU(ctx context.Context, tree string) error {
	library := filepath.Join(tree, preloadPath)
	for _, dir := range []string{filepath.Dir(library), filepath.Dir(filepath.Join(tree, wrapperPath))} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("install the criu wrapper: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, wrapperPath), []byte(criuWrapper), 0o755); err != nil {
		return fmt.Errorf("install the criu wrapper: %w", err)
	}
	compile := exec.CommandContext(ctx, "gcc", "-O2", "-shared", "-fPIC", "-x", "c", "-o", library, "-")
	compile.Stdin = strings.NewReader(s.Preload)
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("compile the library that criu needs where root lacks CAP_SYS_RESOURCE: %w: %s (scripts/deps.sh installs gcc)",
			err, strings.TrimSpace(string(out)))
	}
	return nil
}
