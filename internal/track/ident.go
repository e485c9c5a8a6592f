package track

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// stat is what /proc/PID/stat says.
type stat struct {
	state                  byte
	parent                 int
	start                  uint64 // of the process, in ticks since boot
	code, stack, data, arg uint64 // addresses that executing a program sets
}

func (s stat) dead() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

func readStat(pid int) (stat, error) {
	return readStatFile(fmt.Sprintf("/proc/%d/stat", pid))
}

func readStatFile(path string) (stat, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// parseStat counts fields from behind the command's name, which may hold anything; fields are numbered as in proc_pid_stat(5).
func parseStat(b []byte) (stat, error) {
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 46 {
		return stat{}, fmt.Errorf("status of a process not understood: %q", b)
	}
	var bad error
	num := func(field int) uint64 {
		n, err := strconv.ParseUint(string(f[field-3]), 10, 64)
		if err != nil {
			bad = err
		}
		return n
	}
	s := stat{
		state: f[0][0], parent: int(num(4)), start: num(22),
		code: num(26), stack: num(28), data: num(45), arg: num(48),
	}
	return s, bad
}

// identity tells processes, and the programs they execute one after the other, from each other.
//
// Nothing in /proc names the memory of a process as such. What is here changes when a program is executed, as long as addresses are
// random; in addition a process's old memory is seen to be gone by the descriptor that was opened on it (process.alive).
type identity struct {
	start                  uint64
	code, stack, data, arg uint64
	random                 [16]byte // what the kernel gave the program to seed itself with; some overwrite it
	vdso                   uint64
}

// Entries of the auxiliary vector (include/uapi/linux/auxvec.h).
const (
	auxRandom = 25
	auxVDSO   = 33
)

// identify fails with ErrGone for what has no memory any more.
func identify(pid int) (identity, stat, error) {
	s, err := readStat(pid)
	if err != nil || s.dead() {
		return identity{}, s, ErrGone
	}
	id := identity{start: s.start, code: s.code, stack: s.stack, data: s.data, arg: s.arg}
	aux, err := os.ReadFile(fmt.Sprintf("/proc/%d/auxv", pid))
	if err != nil {
		return identity{}, s, gone(pid, fmt.Errorf("read auxiliary vector of process %d: %w", pid, err))
	}
	for ; len(aux) >= 16; aux = aux[16:] {
		value := binary.NativeEndian.Uint64(aux[8:])
		switch binary.NativeEndian.Uint64(aux) {
		case auxVDSO:
			id.vdso = value
		case auxRandom:
			// not there: the program has unmapped its first stack, which tells it from others as well
			_, _ = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &id.random[0], Len: 16}},
				[]unix.RemoteIovec{{Base: uintptr(value), Len: 16}}, 0)
		}
	}
	return id, s, nil
}

// innermost returns the process's number in the innermost of its pid namespaces.
func innermost(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, gone(pid, fmt.Errorf("read status of process %d: %w", pid, err))
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("NSpid:")); ok {
			f := bytes.Fields(rest)
			if len(f) == 0 {
				break
			}
			return strconv.Atoi(string(f[len(f)-1]))
		}
	}
	return 0, fmt.Errorf("read status of process %d: no NSpid", pid)
}

// Types of kcmp(2).
const (
	kcmpFile = 0
	kcmpVM   = 1
)

// SharesMemory says whether two processes have the same memory, as after vfork. It says no of processes that have ended.
func SharesMemory(pid1, pid2 int) bool { return same(kcmpVM, pid1, pid2, 0, 0) }

// same asks kcmp(2) whether two processes have the same memory, or two descriptors the same open file.
func same(kind, pid1, pid2, fd1, fd2 int) bool {
	r, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid1), uintptr(pid2), uintptr(kind), uintptr(fd1), uintptr(fd2), 0)
	return errno == 0 && r == 0
}
