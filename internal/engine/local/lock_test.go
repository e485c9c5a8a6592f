package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"migrate/internal/engine"
	"migrate/internal/inherit"
)

// What this program can be besides a test, with the directory of locks as its argument.
const (
	asAgent = "LOCAL_TEST_AGENT" // takes the lock, starts a guard and dies
	asGuard = "LOCAL_TEST_GUARD" // keeps the lock until its standard input ends
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asGuard) != "":
		inherit.Keep()
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	case os.Getenv(asAgent) != "":
		if err := agent(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func agent(dir string) error {
	held, _, err := Lock(context.Background(), dir, "web", "web")
	if err != nil {
		return err
	}
	guard := exec.Command("/proc/self/exe")
	guard.Env = append(os.Environ(), asGuard+"=1")
	guard.Stdin = os.Stdin
	inherit.Pass(guard, held)
	if err := guard.Start(); err != nil {
		return err
	}
	fmt.Println("there")
	return nil
}

func TestLockIsOnes(t *testing.T) {
	dir := t.TempDir()
	held, unlock, err := Lock(t.Context(), dir, "web", "web")
	if err != nil || held == nil {
		t.Fatal(held, err)
	}
	if _, _, err := Lock(t.Context(), dir, "web", "web"); !errors.Is(err, engine.ErrExists) {
		t.Errorf("got %v, want ErrExists", err)
	}
	if _, other, err := Lock(t.Context(), dir, "db", "db"); err != nil {
		t.Error(err)
	} else if err := other(t.Context()); err != nil {
		t.Error(err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Error(err)
	}
	if _, unlock, err = Lock(t.Context(), dir, "web", "web"); err != nil {
		t.Fatal(err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// The guard of an agent that died is through with the container before anybody else begins with it.
func TestLockOutlivesTheAgent(t *testing.T) {
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c := exec.Command("/proc/self/exe", dir)
	c.Env = append(os.Environ(), asAgent+"=1")
	c.Stdin, c.Stderr = r, os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the agent says %q, %v", line, err)
	}
	if err := c.Wait(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := Lock(ctx, dir, "web", "web"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("beside the guard: %v, want a wait", err)
	}
	ended := time.AfterFunc(100*time.Millisecond, func() { w.Close() })
	defer ended.Stop()
	_, unlock, err := Lock(t.Context(), dir, "web", "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(t.Context()); err != nil {
		t.Error(err)
	}
}
