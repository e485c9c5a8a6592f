package track

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"migrate/internal/uffd"

	"golang.org/x/sys/unix"
)

// checkWP tells why this host cannot track by write protection. Everything that can be tried on our own memory is.
func checkWP() *UnavailableError {
	if err := canInject(); err != nil {
		return &UnavailableError{WP, err.Error(), "use another tracker"}
	}
	if !mayTrace() {
		return &UnavailableError{WP, "this agent may not trace processes", "give it CAP_SYS_PTRACE, and set kernel.yama.ptrace_scope below 3"}
	}
	if err := tryWP(); err != nil {
		return &UnavailableError{WP, err.Error(), "use Linux 6.7 or newer with CONFIG_USERFAULTFD, or another tracker"}
	}
	return nil
}

func mayTrace() bool {
	if b, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil && strings.TrimSpace(string(b)) == "3" {
		return false
	}
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("CapEff:")); ok {
			caps, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 16, 64)
			return err == nil && caps&(1<<unix.CAP_SYS_PTRACE) != 0
		}
	}
	return false
}

// tryWP protects a page of our own and looks whether a write is noticed.
func tryWP() error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK|uffd.UserModeOnly, 0, 0)
	if errno != 0 {
		return fmt.Errorf("create a userfaultfd: %w", errno)
	}
	defer unix.Close(int(fd))
	if err := uffd.API(int(fd), wpFeatures); err != nil {
		return fmt.Errorf("ask for asynchronous write protection: %w", err)
	}
	page, err := mapPages(1)
	if err != nil {
		return fmt.Errorf("map a page: %w", err)
	}
	defer unmapPages(page)
	page[0] = 1
	r := rangeOf(page)
	if err := uffd.Register(int(fd), r.Start, r.End, uffd.ModeWP); err != nil {
		return fmt.Errorf("register memory for write protection: %w", err)
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return fmt.Errorf("open our page map: %w", err)
	}
	defer f.Close()
	s := uffd.NewScanner(int(f.Fd()))
	for i, want := range []int{1, 0, 1} {
		n := 0
		if err := s.Scan(r.Start, r.End, wpWritten, func(uffd.Region) { n++ }); err != nil {
			return fmt.Errorf("scan pages: %w", err)
		}
		if n != want {
			return errors.New("the kernel does not tell which pages were written")
		}
		if i == 1 {
			page[0] = 2
		}
	}
	return nil
}

// readsDirectly tells whether a process has a file open that devices read into memory past the page cache.
func readsDirectly(pid int) bool {
	entries, err := os.ReadDir(procPath(pid, "fd"))
	if err != nil {
		return false
	}
	for _, e := range entries {
		to, err := os.Readlink(procPath(pid, "fd/"+e.Name()))
		if err != nil || !strings.HasPrefix(to, "/") {
			continue
		}
		b, err := os.ReadFile(procPath(pid, "fdinfo/"+e.Name()))
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			if rest, ok := bytes.CutPrefix(line, []byte("flags:")); ok {
				flags, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 8, 64)
				if err == nil && flags&unix.O_DIRECT != 0 {
					return true
				}
			}
		}
	}
	return false
}
