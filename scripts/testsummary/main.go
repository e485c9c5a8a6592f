// Command testsummary runs go test and says briefly what happened: a line for each package, the whole output of what
// failed, which tests were skipped and why, and a closing line
//
//	N passed, N failed, N skipped
//
// Its arguments are go test's. It exits with 1 if anything failed or nothing ran, and, where CI=true, also if anything
// was skipped: a skipped test proves nothing.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	// the tests get the terminal's signals too, and clean up; what they say then is still shown
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM)
	code, err := run(os.Args[1:], os.Stdout, os.Getenv("CI") == "true")
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsummary:", err)
		code = 1
	}
	os.Exit(code)
}

func run(args []string, out io.Writer, strict bool) (int, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start go test: %w", err)
	}
	s := newSummary(out)
	readErr := s.read(pipe)
	waitErr := cmd.Wait()
	s.close(strict)
	switch {
	case readErr != nil:
		return 1, readErr
	case waitErr != nil || !s.good(strict):
		return 1, nil // what failed has been shown
	}
	return 0, nil
}
