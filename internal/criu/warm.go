package criu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
)

// kdatPath is where CRIU keeps what it found out about the kernel (criu/kerndat.c). Finding it out takes CRIU some tens of
// milliseconds, and would do so within the downtime.
const kdatPath = "/run/criu.kdat"

// Warm makes CRIU find out what the kernel can do, unless it has done so since the host was started. `criu check` may well
// complain about features that no dump needs: only a CRIU that cannot be run is an error.
func Warm(ctx context.Context) error {
	if _, err := os.Stat(kdatPath); err == nil {
		return nil
	}
	cmd := exec.CommandContext(ctx, "criu", "check")
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		return fmt.Errorf("run criu check: %w", err)
	}
	return nil
}
