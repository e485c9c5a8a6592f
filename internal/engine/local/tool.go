package local

import (
	"context"
	"fmt"
	"log/slog"
	"os/exec"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/engine"
)

// toolLimit bounds a tool that is asked for its version.
const toolLimit = 10 * time.Second

// What the tools say of their versions.
var (
	RuncVersion = regexp.MustCompile(`(?m)^runc version (\S+)`)
	CRIUVersion = regexp.MustCompile(`(?m)^Version: (\S+)`)
)

// ToolVersion is "" for a tool that is missing or says something else than it used to.
func ToolVersion(ctx context.Context, log *slog.Logger, tool string, pattern *regexp.Regexp) string {
	ctx, cancel := context.WithTimeout(ctx, toolLimit)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, "--version").Output()
	if err != nil {
		log.Debug("tool has no version", "tool", tool, "err", err)
		return ""
	}
	if m := pattern.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

// KernelRelease is what uname -r prints.
func KernelRelease() (string, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", fmt.Errorf("read kernel release: %w", err)
	}
	return unix.ByteSliceToString(uts.Release[:]), nil
}

// CheckTool compares a tool's version with the oldest that will do.
func CheckTool(name, binary, have string, oldest Version, why string) error {
	if have == "" {
		path, err := exec.LookPath(binary)
		if err != nil {
			return fmt.Errorf("%s is missing on this host (%s): install it, or name its binary: %w", name, binary, err)
		}
		return fmt.Errorf("%s at %s does not tell its version: reinstall it", name, path)
	}
	v, err := ParseVersion(have)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if v.Less(oldest) {
		return fmt.Errorf("%s %s is too old%s: install %s or newer: %w", name, have, why, oldest, engine.ErrUnsupported)
	}
	return nil
}
