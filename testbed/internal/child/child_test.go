package child

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFilesAreNotInherited(t *testing.T) {
	file, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	fd := file.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	keepFiles()
	if flags, err := unix.FcntlInt(fd, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("the file has the flags %#x, %v: a host would inherit it", flags, err)
	}
}
