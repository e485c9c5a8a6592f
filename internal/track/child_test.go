package track

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The test binary is its own workload: started again with this variable it is one of the programs below.
const childVar = "TRACK_TEST_CHILD"

var programs = map[string]func(){
	"idle":   idleProgram,
	"calls":  callsProgram,
	"memory": memoryProgram,
	"exec":   execProgram,
	"vmas":   vmasProgram,
	"direct": directProgram,
	"agent":  agentProgram,
}

func TestMain(m *testing.M) {
	if name := os.Getenv(childVar); name != "" {
		if run := programs[name]; run != nil {
			run()
			os.Exit(0)
		}
		fmt.Println("no such program:", name)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// child is a running program.
type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, to trace processes and to read their memory")
	}
}

// held returns how many ranges of a process are registered with a userfaultfd.
func held(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(procPath(pid, "smaps"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "VmFlags:") && strings.Contains(l+" ", " uw ") {
			n++
		}
	}
	return n
}

// start runs a program until it says that it is ready, and kills it at the end of the test.
func start(t *testing.T, name string, env ...string) *child { return startWith(t, name, nil, env...) }

// startWith hands open files to the program.
func startWith(t *testing.T, name string, files []*os.File, env ...string) *child {
	t.Helper()
	needRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), childVar+"="+name, "GODEBUG=asyncpreemptoff=1", "GOMAXPROCS=2"), env...)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = files
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		for _, pid := range c.tree() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = cmd.Wait()
	})
	if l := c.line(); l != "ready" {
		t.Fatalf("%s: said %q", name, l)
	}
	return c
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// line reads what the program says; a program that ends says "".
func (c *child) line() string {
	l, _ := c.out.ReadString('\n')
	return strings.TrimSpace(l)
}

func (c *child) say(l string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, l+"\n"); err != nil {
		c.t.Fatal(err)
	}
}

// tree lists the program and its descendants.
func (c *child) tree() []int { return descendants(c.pid()) }

func descendants(pid int) []int {
	if s, err := readStat(pid); err != nil || s.dead() {
		return nil
	}
	out := []int{pid}
	lists, _ := filepath.Glob(procPath(pid, "task/*/children"))
	for _, l := range lists {
		b, _ := os.ReadFile(l)
		for _, f := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, descendants(n)...)
			}
		}
	}
	return out
}

func (c *child) pids() ([]int, error) { return c.tree(), nil }

// stop stops all processes of the program and waits until they stand still.
func (c *child) stop() {
	c.t.Helper()
	for {
		before := c.tree()
		for _, pid := range before {
			_ = unix.Kill(pid, unix.SIGSTOP)
		}
		for _, pid := range before {
			awaitState(c.t, pid, "T")
		}
		if len(c.tree()) == len(before) {
			return
		}
	}
}

func (c *child) cont() {
	for _, pid := range c.tree() {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
}

// awaitState waits until all threads of a process are in one of the states, or ended.
func awaitState(t *testing.T, pid int, states string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		files, _ := filepath.Glob(procPath(pid, "task/*/stat"))
		ok := true
		for _, f := range files {
			if s, err := readStatFile(f); err == nil && !s.dead() && !strings.ContainsRune(states, rune(s.state)) {
				ok = false
			}
		}
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("process %d does not get into state %s", pid, states)
		}
	}
}

// What follows runs in the programs.

func ready() {
	fmt.Println("ready")
	go func() {
		if os.Getenv("TRACK_TEST_STDIN") == "" {
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(0) // the test is gone
		}
	}()
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Println("failed:", err)
		fmt.Fprintln(os.Stderr, "program failed:", err)
		os.Exit(1)
	}
	return v
}

// mmap maps memory with the raw call, so that any address and length goes.
func mmap(addr, n uintptr, prot, flags int, fd int) uintptr {
	p, _, errno := unix.Syscall6(unix.SYS_MMAP, addr, n, uintptr(prot), uintptr(flags), uintptr(fd), 0)
	if errno != 0 {
		must(0, fmt.Errorf("mmap %#x %#x: %w", addr, n, errno))
	}
	return p
}

const (
	anonymous = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	readWrite = unix.PROT_READ | unix.PROT_WRITE
)

func munmap(p, n uintptr) { _, _, _ = unix.Syscall(unix.SYS_MUNMAP, p, n, 0) }

func madvise(p, n uintptr, advice int) error {
	if _, _, errno := unix.Syscall(unix.SYS_MADVISE, p, n, uintptr(advice)); errno != 0 {
		return errno
	}
	return nil
}

// poke writes a word. Its memory is not Go's, so the race detector is none of its business.
//
//go:norace
//go:nosplit
func poke(p uintptr, v uint64) {
	*(*uint64)(*(*unsafe.Pointer)(unsafe.Pointer(&p))) = v
}

func idleProgram() {
	ready()
	select {}
}

// vmasProgram has ten thousand mappings, and a terabyte of which two pages are used.
func vmasProgram() {
	const mappings = 10000
	base := mmap(0, 2*mappings*PageSize, unix.PROT_NONE, anonymous|unix.MAP_NORESERVE, -1)
	for i := range uintptr(mappings) {
		mmap(base+2*i*PageSize, PageSize, readWrite, anonymous|unix.MAP_FIXED, -1)
		poke(base+2*i*PageSize, uint64(i)+1)
	}
	const tera = 1 << 40
	sparse := mmap(0, tera, readWrite, anonymous|unix.MAP_NORESERVE, -1)
	poke(sparse+PageSize, 1)
	poke(sparse+tera-PageSize, 2)
	fmt.Println("ready")
	fmt.Println(base, sparse)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var i uintptr
		_, _ = fmt.Sscan(in.Text(), &i)
		poke(base+2*i*PageSize, rand.Uint64())
		poke(sparse+PageSize, rand.Uint64())
		fmt.Println("done")
	}
}

// execProgram executes itself over and over. Each life writes another pattern to the same place.
func execProgram() {
	life, _ := strconv.Atoi(os.Getenv("TRACK_TEST_LIFE"))
	const place, n = 0x20000000, 64
	mmap(place, n*PageSize, readWrite, anonymous|unix.MAP_FIXED, -1)
	for i := range uintptr(n) {
		poke(place+i*PageSize, uint64(life))
	}
	if life == 0 {
		fmt.Println("ready")
	}
	end := time.Now().Add(50 * time.Millisecond)
	for i := uintptr(0); time.Now().Before(end); i++ {
		poke(place+i%8*PageSize+8, rand.Uint64())
		time.Sleep(time.Millisecond)
	}
	env := append(os.Environ(), "TRACK_TEST_LIFE="+strconv.Itoa(life+1))
	must(0, unix.Exec("/proc/self/exe", os.Args, env))
}

// directProgram reads a file past the page cache into its memory.
func directProgram() {
	name := os.Getenv("TRACK_TEST_FILE")
	fd := must(unix.Open(name, unix.O_RDONLY|unix.O_DIRECT, 0))
	var st unix.Stat_t
	must(0, unix.Fstat(fd, &st))
	const n = 256
	p := mmap(0, n*PageSize, readWrite, anonymous, -1)
	buf := unsafe.Slice((*byte)(*(*unsafe.Pointer)(unsafe.Pointer(&p))), n*PageSize)
	ready()
	for {
		size := (1 + rand.IntN(16)) * PageSize
		at := rand.IntN(n*PageSize-size) &^ (PageSize - 1)
		off := rand.Int64N(st.Size-int64(size)) &^ (PageSize - 1)
		must(unix.Pread(fd, buf[at:at+size], off))
		time.Sleep(100 * time.Microsecond)
	}
}

// agentProgram tracks a process until it is killed.
func agentProgram() {
	pid := must(strconv.Atoi(os.Getenv("TRACK_TEST_TARGET")))
	tr := must(Open(context.Background(), Options{Kind: WP, Pids: func() ([]int, error) { return []int{pid}, nil }}))
	must(tr.Scan(context.Background()))
	ready()
	for {
		must(tr.Scan(context.Background()))
	}
}
