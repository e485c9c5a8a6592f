package feature

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pattern is content that depends on a seed and on where it is.
func pattern(seed uint64, size int) []byte {
	b := make([]byte, size)
	for at := 0; at+8 <= size; at += 8 {
		x := seed*0x9e3779b97f4a7c15 + uint64(at)*0xbf58476d1ce4e5b9
		binary.LittleEndian.PutUint64(b[at:], x^x>>29)
	}
	return b
}

// A segment is memory that two processes share: two words at its beginning, and patterns from the second page on.
type segment []byte

const segmentPages = 256

func (s segment) word(i int) *uint32 { return (*uint32)(unsafe.Pointer(&s[i*4])) }

func (s segment) fill() {
	for page := 1; page < segmentPages; page++ {
		copy(s.page(page), pattern(uint64(page), 4096))
	}
}

func (s segment) page(n int) []byte { return s[n*4096 : (n+1)*4096] }

// verify looks at one page.
func (s segment) verify(n uint64) error {
	page := 1 + int(n%(segmentPages-1))
	if !bytes.Equal(s.page(page), pattern(uint64(page), 4096)) {
		return damage("page %d of shared memory is wrong", page)
	}
	return nil
}

// The semaphores of the set.
const (
	semParent = iota
	semPartner
	semCount
)

// sysV has all three kinds of System V objects. A message is always in the queue.
type sysV struct {
	shm, sem, msg int
	memory        segment
	partner       *partner
}

func newSysV(Options) (m machine, err error) {
	s := &sysV{}
	const mode = unix.IPC_CREAT | 0o600
	if s.shm, err = unix.SysvShmGet(unix.IPC_PRIVATE, segmentPages*4096, mode); err != nil {
		return nil, err
	}
	if s.memory, err = unix.SysvShmAttach(s.shm, 0, 0); err != nil {
		return nil, err
	}
	s.memory.fill()
	sem, _, no := unix.Syscall(unix.SYS_SEMGET, unix.IPC_PRIVATE, semCount, mode)
	if no != 0 {
		return nil, os.NewSyscallError("semget", no)
	}
	msg, _, no := unix.Syscall(unix.SYS_MSGGET, unix.IPC_PRIVATE, mode, 0)
	if no != 0 {
		return nil, os.NewSyscallError("msgget", no)
	}
	s.sem, s.msg = int(sem), int(msg)
	if s.partner, err = startPartner("sysv", nil, strconv.Itoa(s.shm), strconv.Itoa(s.sem)); err != nil {
		return nil, err
	}
	return s, s.post(1)
}

// A message of System V has a type before its text.
type message struct {
	kind int64
	n    uint64
}

func (s *sysV) post(n uint64) error {
	m := message{1, n}
	_, _, no := unix.Syscall6(unix.SYS_MSGSND, uintptr(s.msg), uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m.n), 0, 0, 0)
	if no != 0 {
		return os.NewSyscallError("msgsnd", no)
	}
	return nil
}

func (s *sysV) fetch() (m message, err error) {
	err = retry(func() error {
		_, _, no := unix.Syscall6(unix.SYS_MSGRCV, uintptr(s.msg), uintptr(unsafe.Pointer(&m)), unsafe.Sizeof(m.n), 0, unix.IPC_NOWAIT, 0)
		if no != 0 {
			return no
		}
		return nil
	})
	return m, err
}

// semop changes one semaphore, and waits if it has to.
func semop(set, number, by int) error {
	op := struct {
		number    uint16
		by, flags int16
	}{uint16(number), int16(by), 0}
	return retry(func() error {
		if _, _, no := unix.Syscall(unix.SYS_SEMOP, uintptr(set), uintptr(unsafe.Pointer(&op)), 1); no != 0 {
			return no
		}
		return nil
	})
}

func (s *sysV) step(n uint64) error {
	atomic.StoreUint32(s.memory.word(0), uint32(n))
	if err := s.partner.expect("begin", "begun"); err != nil {
		return err
	}
	if err := semop(s.sem, semPartner, 1); err != nil {
		return os.NewSyscallError("semop", err)
	}
	if err := semop(s.sem, semParent, -1); err != nil {
		return os.NewSyscallError("semop", err)
	}
	if got, want := atomic.LoadUint32(s.memory.word(1)), 3*uint32(n)+1; got != want {
		return damage("the other process wrote %d and not %d", got, want)
	}
	m, err := s.fetch()
	if err != nil || m.n != n {
		return damage("the queue holds message %d, %v", m.n, err)
	}
	if _, err := s.fetch(); err != unix.ENOMSG {
		return damage("the queue holds a second message: %v", err)
	}
	if err := s.memory.verify(n); err != nil {
		return err
	}
	return s.post(n + 1)
}

// sysvPartner waits at one semaphore, computes in shared memory, and raises the other.
func sysvPartner(args []string) (func(string) string, error) {
	shm, err := strconv.Atoi(args[0])
	if err != nil {
		return nil, err
	}
	sem, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	attached, err := unix.SysvShmAttach(shm, 0, 0)
	if err != nil {
		return nil, err
	}
	memory := segment(attached)
	return func(string) string {
		go func() {
			if err := semop(sem, semPartner, -1); err != nil {
				fmt.Fprintln(os.Stderr, "semop:", err)
				return
			}
			atomic.StoreUint32(memory.word(1), 3*atomic.LoadUint32(memory.word(0))+1)
			if err := semop(sem, semParent, 1); err != nil {
				fmt.Fprintln(os.Stderr, "semop:", err)
			}
		}()
		return "begun"
	}, nil
}

// posixShm has a file of /dev/shm mapped by two processes, which wake each other through futexes in it.
type posixShm struct {
	memory segment
}

func newPosixShm(Options) (machine, error) {
	const path = "/dev/shm/feature"
	if err := os.WriteFile(path, make([]byte, segmentPages*4096), 0o600); err != nil {
		return nil, err
	}
	memory, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	memory.fill()
	p, err := startPartner("posixshm", nil, path)
	if err != nil {
		return nil, err
	}
	return &posixShm{memory}, p.expect("begin", "begun")
}

func mapFile(path string) (segment, error) {
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return unix.Mmap(int(f.Fd()), 0, segmentPages*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

const (
	futexWait = 0
	futexWake = 1
)

// await returns when the word has another value than old.
func await(word *uint32, old uint32) uint32 {
	for {
		if now := atomic.LoadUint32(word); now != old {
			return now
		}
		// a wake-up may be spurious, and the word may have changed before the call
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, uintptr(old), 0, 0, 0)
	}
}

func wake(word *uint32, value uint32) {
	atomic.StoreUint32(word, value)
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1, 0, 0, 0)
}

func (p *posixShm) step(n uint64) error {
	wake(p.memory.word(0), uint32(n))
	if got := await(p.memory.word(1), uint32(n)-1); got != uint32(n) {
		return damage("the other process answered %d", got)
	}
	return p.memory.verify(n)
}

// posixShmPartner answers each number in the first word with the same in the second.
func posixShmPartner(args []string) (func(string) string, error) {
	memory, err := mapFile(strings.Join(args, " "))
	if err != nil {
		return nil, err
	}
	return func(string) string {
		go func() {
			for last := uint32(0); ; {
				now := await(memory.word(0), last)
				if now != last+1 {
					fmt.Fprintf(os.Stderr, "asked %d after %d\n", now, last)
					return
				}
				last = now
				wake(memory.word(1), now)
			}
		}()
		return "begun"
	}, nil
}

// memfd is a sealed memfd that is mapped shared, and read through its descriptor.
type memfd struct {
	file   *os.File
	memory segment
}

const memfdSeals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW

func newMemfd(Options) (machine, error) {
	fd, err := unix.MemfdCreate("feature", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	m := &memfd{file: os.NewFile(uintptr(fd), "feature")}
	if err := m.file.Truncate(segmentPages * 4096); err != nil {
		return nil, err
	}
	if m.memory, err = unix.Mmap(fd, 0, segmentPages*4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	m.memory.fill()
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, memfdSeals); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *memfd) step(n uint64) error {
	var b [8]byte
	if _, err := m.file.ReadAt(b[:], 0); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint64(b[:]); got != n-1 {
		return damage("the file holds %d", got)
	}
	binary.LittleEndian.PutUint64(m.memory, n)
	if seals, err := unix.FcntlInt(m.file.Fd(), unix.F_GET_SEALS, 0); err != nil || seals != memfdSeals {
		return damage("the seals are %#x, %v", seals, err)
	}
	if err := m.file.Truncate(1); err == nil {
		return damage("a sealed file could be truncated")
	}
	return m.memory.verify(n)
}
