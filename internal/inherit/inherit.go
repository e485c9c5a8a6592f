// Package inherit hands an open file to a process of this program that only has to keep it open, as a lock of the file lasts for as long as
// anybody has it open.
package inherit

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// at is the descriptor of the first of a command's extra files (os/exec).
const at = 3

// Pass makes a command that was not started yet inherit the file, unless that is nil.
func Pass(cmd *exec.Cmd, f *os.File) {
	if f != nil {
		cmd.ExtraFiles = []*os.File{f}
	}
}

// Keep is for a process that was passed a file. What it starts in its turn, some of which may outlive it, does not get the file.
func Keep() { unix.CloseOnExec(at) }
