package testbed

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
)

// output runs cmd and returns what it printed, without the last line's end. A
// failure carries what the command said about it.
func output(cmd *exec.Cmd, host string, argv []string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(stderr.String() + stdout.String())
		return "", fmt.Errorf("host %s: %s: %w: %s", host, strings.Join(argv, " "), err, said)
	}
	return strings.TrimRight(stdout.String(), "\n"), nil
}
