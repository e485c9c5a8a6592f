package criu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"migrate/internal/inherit"
	"migrate/internal/thread"
)

// GuardJob is what a guard is told on its command line, as JSON.
type GuardJob struct {
	Runtime  string   `json:"runtime"`   // binary
	Args     []string `json:"args"`      // of the runtime
	Config   string   `json:"config"`    // our CRIU configuration
	ConfigAt string   `json:"config_at"` // the file in whose place it is put, for the runtime and CRIU only
	Output   string   `json:"output"`    // file that gets the runtime's output
	Engine   string   `json:"engine"`    // passed to the orphan function: how to reach the container
	ID       string   `json:"id"`
	NetNS    string   `json:"netns"`
	NetNSAt  string   `json:"netns_at"` // where the runtime looks for it, if it has to be shown there; "" otherwise
	Freezer  string   `json:"freezer"`  // the cgroup's state file, for when the engine does not answer
	Stage    string   `json:"stage"`    // removed when the agent dies: it holds the container's memory
	Lazy     bool     `json:"lazy"`     // CRIU will need many descriptors
	Keeps    bool     `json:"keeps"`    // a file is inherited, and to be kept open
	Claim    Claim    `json:"claim"`    // what makes a lazy dump cheaper, where it works
}

// The words that an agent writes to its guard.
const (
	wordBegin = "begin" // start the runtime
	wordGo    = "go"    // GO is about to leave: never thaw by yourself from here on
	wordDone  = "done"  // the agent has settled the container: leave it alone
)

// The words by which a guard says that it is ready, and how.
const (
	wordReady  = "ready"
	wordClaims = "ready claims" // CRIU will claim a parent
)

// orphanLimit bounds what a guard does for a container whose agent died.
const orphanLimit = 30 * time.Second

// RunGuard is the guard process: it makes its mount namespace (in which it must have been started) show the agent's
// CRIU configuration, runs the runtime when told to, and outlives the agent: when the agent dies before it wrote "go" or
// "done", the guard waits for the runtime to undo the dump, which the hook's end-of-file causes, and calls orphan to thaw
// and unlock the container. The returned value is the process's exit status.
func RunGuard(job GuardJob, control io.Reader, orphan func(context.Context, GuardJob) error) int {
	if job.Keeps {
		inherit.Keep()
	}
	signal.Ignore(syscall.SIGPIPE) // an agent that died reads nothing any more
	// the agent's mount namespace, in which the stage has to be removed
	host, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer host.Close()
	config, ready := job.Config, wordReady
	if job.Claim.Kdat != "" && claimTracking(job.Claim.Kdat) == nil {
		config, ready = job.Claim.Config, wordClaims
	}
	if err := showConfig(config, job.ConfigAt); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if job.NetNSAt != "" {
		if err := showNetNS(job.NetNS, job.NetNSAt); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if job.Lazy {
		if err := raiseDescriptors(); err != nil {
			fmt.Fprintln(os.Stderr, err) // CRIU may do with what it has, and says so if it does not
		}
	}
	words := bufio.NewScanner(control)
	fmt.Println(ready)
	switch alive := words.Scan(); {
	case !alive: // the container may be frozen already
		return rescue(job, host, orphan)
	case words.Text() != wordBegin:
		return 0
	}
	runtime, err := startRuntime(job)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	settled := make(chan bool, 1)
	go func() {
		for words.Scan() {
			if w := words.Text(); w == wordGo || w == wordDone {
				settled <- true
				return
			}
		}
		settled <- false // end-of-file: the agent is gone
	}()
	var ok bool
	select {
	case code := <-runtime.exit:
		fmt.Println("exit", code)
		ok = <-settled
	case ok = <-settled:
		if ok {
			fmt.Println("exit", <-runtime.exit)
		} else {
			runtime.end(NewFreezer(job.Freezer), undoPatience)
		}
	}
	if ok {
		return 0
	}
	return rescue(job, host, orphan)
}

// rescue takes back what a dead agent left.
func rescue(job GuardJob, host *os.File, orphan func(context.Context, GuardJob) error) int {
	ctx, cancel := context.WithTimeout(context.Background(), orphanLimit)
	defer cancel()
	freezer := NewFreezer(job.Freezer)
	pids, rerr := freezer.Tasks()
	rerr = errors.Join(rerr, RepairOff(pids))
	err := orphan(ctx, job)
	if err != nil {
		// better running behind the engine's back than standing still for ever
		err = errors.Join(err, freezer.Thaw())
	}
	err = errors.Join(rerr, err)
	if err = errors.Join(err, inMountNS(host, func() error { return discardStage(job.Stage) })); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// inMountNS runs f in another mount namespace, on a thread that ends with it.
func inMountNS(ns *os.File, f func() error) error {
	return thread.Run(func() error {
		// a mount namespace belongs to what threads share by CLONE_FS (setns(2))
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("leave the shared root: %w", err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the host's mount namespace: %w", err)
		}
		return f()
	})
}

// runtimeProcess is the runtime, and what it started, in a process group of its own.
type runtimeProcess struct {
	pid  int
	exit chan int
}

// undoPatience is how long a runtime may take to undo a dump whose agent died.
const undoPatience = 15 * time.Second

// end waits for the runtime, and kills it and CRIU when they do not end: the tasks are then left as the cgroup has them.
func (p *runtimeProcess) end(f *Freezer, patience time.Duration) {
	select {
	case <-p.exit:
	case <-time.After(patience):
		_ = f.Freeze() // CRIU thaws what it holds by itself; a container that cannot be frozen is still let go
		_ = syscall.Kill(-p.pid, syscall.SIGKILL)
		<-p.exit
	}
}

func startRuntime(job GuardJob) (*runtimeProcess, error) {
	out, err := os.OpenFile(job.Output, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the runtime's output: %w", err)
	}
	defer out.Close()
	cmd := exec.Command(job.Runtime, job.Args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", job.Runtime, err)
	}
	p := &runtimeProcess{pid: cmd.Process.Pid, exit: make(chan int, 1)}
	fmt.Println("runtime", p.pid)
	go func() {
		err := cmd.Wait()
		var ee *exec.ExitError
		switch {
		case err == nil:
			p.exit <- 0
		case errors.As(err, &ee):
			p.exit <- max(ee.ExitCode(), 1)
		default:
			p.exit <- 1
		}
	}()
	return p, nil
}

// showConfig puts config in place of at. The directory is replaced by a memory file system with copies of its files,
// since at may not exist and nothing is to be created on the host beyond the directory itself.
func showConfig(config, at string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("read CRIU configuration: %w", err)
	}
	dir := filepath.Dir(at)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("show CRIU configuration: %w", err)
	}
	others, err := regularFiles(dir)
	if err != nil {
		return fmt.Errorf("show CRIU configuration: %w", err)
	}
	if err := unix.Mount("migrate", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size=16m"); err != nil {
		return fmt.Errorf("mount over %s: %w", dir, err)
	}
	others[filepath.Base(at)] = text
	for name, b := range others {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return fmt.Errorf("show CRIU configuration: %w", err)
		}
	}
	return nil
}

func regularFiles(dir string) (map[string][]byte, error) {
	const most = 1 << 20 // configuration files are small; whatever is larger is none
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || !info.Mode().IsRegular() || info.Size() > most {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files[e.Name()] = b
	}
	return files, nil
}

// guard is the agent's end of a guard process.
type guard struct {
	cmd     *exec.Cmd
	control io.WriteCloser
	exit    chan int     // the runtime's exit status; closed when the guard ends
	runtime atomic.Int64 // the runtime's pid and process group, 0 before it was started
	stderr  *strings.Builder
	claims  atomic.Bool // CRIU will claim a parent
}

// startGuard starts self, this program, as a guard in a mount namespace, session and process group of its own, and
// returns when it is ready to begin.
func startGuard(ctx context.Context, self []string, job GuardJob, keep *os.File) (*guard, error) {
	arg, err := json.Marshal(job)
	if err != nil {
		return nil, fmt.Errorf("encode the guard's job: %w", err)
	}
	g := &guard{exit: make(chan int, 1), stderr: &strings.Builder{}}
	g.cmd = exec.Command(self[0], append(self[1:len(self):len(self)], string(arg))...)
	// a session of its own: a Ctrl-C on the terminal is for the agent, which undoes things in order
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setsid: true}
	g.cmd.Stderr = g.stderr
	inherit.Pass(g.cmd, keep)
	if g.control, err = g.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	ready := make(chan bool, 1)
	go g.follow(out, ready)
	select {
	case ok := <-ready:
		if !ok {
			return nil, fmt.Errorf("start guard: %s", strings.TrimSpace(g.stderr.String()))
		}
		return g, nil
	case <-ctx.Done():
		g.kill()
		return nil, fmt.Errorf("start guard: %w", context.Cause(ctx))
	}
}

// follow reads what the guard says until it ends, and reaps it.
func (g *guard) follow(out io.Reader, ready chan<- bool) {
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		var code int
		if sc.Text() == wordReady || sc.Text() == wordClaims {
			g.claims.Store(sc.Text() == wordClaims)
			ready <- true
		} else if n, _ := fmt.Sscanf(sc.Text(), "runtime %d", &code); n == 1 {
			g.runtime.Store(int64(code))
		} else if n, _ := fmt.Sscanf(sc.Text(), "exit %d", &code); n == 1 {
			g.exit <- code
		}
	}
	_ = g.cmd.Wait() // its exit status says nothing that the lines did not
	select {
	case ready <- false:
	default:
	}
	close(g.exit)
}

func (g *guard) say(word string) error {
	if _, err := io.WriteString(g.control, word+"\n"); err != nil {
		return fmt.Errorf("tell the guard %q: %w", word, err)
	}
	return nil
}

// kill ends the guard and everything it started: runtime, CRIU and hook are in one process group.
func (g *guard) kill() {
	if pid := g.runtime.Load(); pid > 0 {
		_ = syscall.Kill(-int(pid), syscall.SIGKILL)
	}
	if g.cmd.Process != nil {
		_ = syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
	}
}
