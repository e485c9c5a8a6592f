package churn

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A server is another program that an actor works with. It is a child of this one and dies with it.
type server struct {
	*exec.Cmd
	name  string
	said  tail
	ended chan struct{}
}

// serverUser is who runs them if this program runs as root, because some refuse to: the one of that image, or another one without
// rights.
func serverUser() (uid, gid int, err error) {
	for _, name := range []string{"app", "nobody"} {
		var u *user.User
		if u, err = user.Lookup(name); err != nil {
			continue
		}
		if uid, err = strconv.Atoi(u.Uid); err != nil {
			return 0, 0, err
		}
		gid, err = strconv.Atoi(u.Gid)
		return uid, gid, err
	}
	return 0, 0, fmt.Errorf("find a user for a server: %w", err)
}

// startLimit is how long a server may take to be ready, and an answer to come: everything may stand still for a while.
const startLimit = 2 * time.Minute

// find returns the path of a program that may be in one of the places, which are patterns, or that $PATH has.
func findProgram(name string, places ...string) (string, error) {
	for _, place := range places {
		if found, err := filepath.Glob(filepath.Join(place, name)); err == nil && len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", &Unavailable{name + " is not installed"}
	}
	return path, nil
}

// command prepares a program in dir, as an unprivileged user if this one is root.
func command(dir, path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		uid, gid, err := serverUser()
		cmd.SysProcAttr.Credential, cmd.Err = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(cmd.Err, err)
	}
	return cmd
}

// homeOf makes a directory for a server.
func homeOf(o Options, name string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(o.Dir, name))
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if os.Geteuid() == 0 {
		uid, gid, err := serverUser()
		if err != nil {
			return "", err
		}
		return dir, os.Chown(dir, uid, gid)
	}
	return dir, nil
}

// begin starts a server.
func begin(cmd *exec.Cmd) (*server, error) {
	s := &server{Cmd: cmd, name: filepath.Base(cmd.Path), ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = &s.said
	}
	cmd.Stderr = &s.said
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	go func() {
		_ = cmd.Wait() // the actor sees that it is gone
		close(s.ended)
	}()
	return s, nil
}

// await asks again and again until the server is ready.
func (s *server) await(ready func() error) error {
	const pause = 20 * time.Millisecond
	for end := time.Now().Add(startLimit); ; time.Sleep(pause) {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return s.explain(errors.New("it has ended"))
		default:
		}
		if time.Now().After(end) {
			return s.explain(fmt.Errorf("not ready within %v: %w", startLimit, err))
		}
	}
}

// explain adds what the server said last.
func (s *server) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w; it said: %s", s.name, err, s.said.text())
}

// output runs a program that ends.
func output(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// A tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	last []byte
}

const tailSize = 1500

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p...)
	t.last = t.last[max(0, len(t.last)-tailSize):]
	return len(p), nil
}

func (t *tail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.last))
}
