package criu

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHeldIn(t *testing.T) {
	const text = `55d0-55f0 rw-p 00000000 fe:00 12   /usr/bin/program
Anonymous:             8 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr mr mw me ac
7f00-7f10 rw-p 00000000 00:00 0
Anonymous:           100 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr mr mw me ac
7f20-7f30 rw-p 00000000 00:00 0   [stack]
Anonymous:            16 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr mr mw me lo ac
7f40-7f50 rw-p 00000000 00:10 77   /anon_hugepage (deleted)
Anonymous:             0 kB
Private_Hugetlb:    2048 kB
VmFlags: rd wr mr mw me de ht
7f60-7f70 rw-s 00000000 00:01 78   /dev/zero (deleted)
Anonymous:             0 kB
Private_Hugetlb:       0 kB
VmFlags: rd wr sh mr mw me ms lo
`
	if n := heldIn(bufio.NewScanner(strings.NewReader(text))); n != (8+16+2048)<<10 {
		t.Errorf("%d KiB", n>>10)
	}
}

func TestHeldMemoryOf(t *testing.T) {
	const size = 1 << 20
	self := []int{os.Getpid()}
	before := HeldMemoryOf(self)
	data, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(data) }()
	if err := unix.Mlock(data); err != nil {
		t.Skipf("SKIPPED: memory cannot be locked: %v", err)
	}
	if n := HeldMemoryOf(self) - before; n < size || n > 2*size {
		t.Errorf("%d bytes were locked, %d are counted", size, n)
	}
	if n := HeldMemoryOf([]int{1 << 30}); n != 0 {
		t.Errorf("a process that is gone has %d bytes", n)
	}
}
