package feature

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// family has children that have ended and were not waited for, and an orphan.
type family struct {
	zombies []zombie
	ask     *os.File      // what the orphan reads
	orphan  *bufio.Reader // what it writes
	pid     int           // of the orphan
	parent  string        // of the orphan: who takes orphans in
}

// A zombie is a process that has ended with a status that nobody has asked for yet.
type zombie struct{ pid, status int }

const zombiesKept = 5

// The orphan's parent ends at once. It writes a number whenever it is asked.
const orphanScript = `(n=0; while read -r _; do n=$((n+1)); echo $n; done) <&3 >&4 3<&- 4>&- & echo $!`

func newFamily(Options) (machine, error) {
	f := &family{}
	for i := range zombiesKept {
		if err := f.add(uint64(i)); err != nil {
			return nil, err
		}
	}
	return f, f.bear()
}

// bear starts the orphan: a child's child, whose parent has ended.
func (f *family) bear() error {
	in, ask, err := os.Pipe()
	if err != nil {
		return err
	}
	answers, out, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("sh", "-c", orphanScript)
	cmd.ExtraFiles, cmd.Stderr = []*os.File{in, out}, os.Stderr
	said, err := cmd.Output()
	if err != nil {
		return err
	}
	if _, err := fmt.Sscan(string(said), &f.pid); err != nil {
		return err
	}
	f.ask, f.orphan = ask, bufio.NewReader(answers)
	_, f.parent, err = stat(f.pid)
	return errors.Join(err, in.Close(), out.Close())
}

// add starts a child that ends at once.
func (f *family) add(n uint64) error {
	status := int(n%100) + 1
	process, err := os.StartProcess("/bin/sh", []string{"sh", "-c", fmt.Sprintf("exit %d", status)}, &os.ProcAttr{})
	if err != nil {
		return err
	}
	f.zombies = append(f.zombies, zombie{process.Pid, status})
	// it is waited for by its pid, after a migration too
	if err := process.Release(); err != nil {
		return err
	}
	var info unix.Siginfo
	return retry(func() error {
		return unix.Waitid(unix.P_PID, f.zombies[len(f.zombies)-1].pid, &info, unix.WEXITED|unix.WNOWAIT, nil)
	})
}

func (f *family) step(n uint64) error {
	for _, z := range f.zombies {
		state, _, err := stat(z.pid)
		if err != nil || state != "Z" {
			return damage("process %d was a zombie and is %q, %v", z.pid, state, err)
		}
	}
	oldest := f.zombies[0]
	f.zombies = f.zombies[1:]
	var status unix.WaitStatus
	if err := retry(func() error { _, err := unix.Wait4(oldest.pid, &status, 0, nil); return err }); err != nil {
		return damage("wait for %d: %v", oldest.pid, err)
	}
	if status.ExitStatus() != oldest.status {
		return damage("process %d ended with %d and not %d", oldest.pid, status.ExitStatus(), oldest.status)
	}
	if _, parent, err := stat(f.pid); err != nil || parent != f.parent {
		return damage("the orphan's parent is %q and not %q, %v", parent, f.parent, err)
	}
	if _, err := io.WriteString(f.ask, "?\n"); err != nil {
		return err
	}
	if said, err := f.orphan.ReadString('\n'); err != nil || said != fmt.Sprintf("%d\n", n) {
		return damage("the orphan says %q, %v", said, err)
	}
	return f.add(n)
}

// stat reads a process's state and parent, see proc_pid_stat(5).
func stat(pid int) (state, parent string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", "", err
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	return fields[0], fields[1], nil
}

// chain is a row of processes, each of which copies what it reads to the next. Numbers are always under way in it.
type chain struct {
	in  *os.File
	out *bufio.Reader
}

// chainDelay is how many numbers are under way.
const chainDelay = 3

func newChain(o Options) (machine, error) {
	first, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	for range or(o.Count, 500) {
		next, out, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		_, err = os.StartProcess("/bin/cat", []string{"cat"}, &os.ProcAttr{
			Files: []*os.File{first, out, os.Stderr}, Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
		})
		if err := errors.Join(err, first.Close(), out.Close()); err != nil {
			return nil, err
		}
		first = next
	}
	c := &chain{in, bufio.NewReader(first)}
	for n := range chainDelay {
		if err := c.put(uint64(n + 1)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *chain) put(n uint64) error {
	_, err := c.in.Write(number(n))
	return err
}

func (c *chain) step(n uint64) error {
	if err := c.put(n + chainDelay); err != nil {
		return err
	}
	var b [8]byte
	if _, err := io.ReadFull(c.out, b[:]); err != nil {
		return err
	}
	if got := binary.BigEndian.Uint64(b[:]); got != n {
		return damage("%d came through and not %d", got, n)
	}
	return nil
}

// threads are many threads, each with a goroutine that never leaves it, in a ring of pipes.
type threads struct {
	in  *os.File
	out *os.File
}

func newThreads(o Options) (machine, error) {
	first, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	for range or(o.Count, 100) {
		next, out, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		go pass(blocking(first), blocking(out))
		first = next
	}
	return &threads{in, first}, nil
}

// blocking is a descriptor whose reads hold their thread.
func blocking(f *os.File) int {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		panic(err) // a number that is too high, or no room for descriptors: nothing has begun yet
	}
	_ = f.Close()
	if err := unix.SetNonblock(fd, false); err != nil {
		panic(err)
	}
	return fd
}

// pass passes numbers on, each increased by one, as long as it runs on the thread that it began on.
func pass(in, out int) {
	runtime.LockOSThread()
	thread := unix.Gettid()
	for b := make([]byte, 8); ; {
		var n int
		err := retry(func() (err error) { n, err = unix.Read(in, b); return err })
		if err != nil || n != len(b) || unix.Gettid() != thread {
			fmt.Fprintf(os.Stderr, "thread %d, now %d: read %d bytes, %v\n", thread, unix.Gettid(), n, err)
			return
		}
		err = retry(func() error { _, err := unix.Write(out, number(binary.BigEndian.Uint64(b)+1)); return err })
		if err != nil {
			fmt.Fprintf(os.Stderr, "thread %d: write: %v\n", thread, err)
			return
		}
	}
}

func (t *threads) step(n uint64) error {
	if _, err := t.in.Write(number(n << 32)); err != nil {
		return err
	}
	var b [8]byte
	if _, err := io.ReadFull(t.out, b[:]); err != nil {
		return err
	}
	got := binary.BigEndian.Uint64(b[:])
	if got>>32 != n || got&(1<<32-1) == 0 {
		return damage("%x came round in step %d", got, n)
	}
	return nil
}
