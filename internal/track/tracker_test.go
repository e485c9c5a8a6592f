package track

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// descriptors lists the open files of a process; none if it has ended.
func descriptors(t *testing.T, pid int) []string {
	t.Helper()
	var out []string
	names, _ := filepath.Glob(procPath(pid, "fd/*"))
	for _, n := range names {
		if to, err := os.Readlink(n); err == nil {
			out = append(out, filepath.Base(n)+" "+to)
		}
	}
	return out
}

func TestKinds(t *testing.T) {
	needRoot(t)
	here := Available()
	if !slices.Contains(here, Hash) {
		t.Errorf("available are only %v", here)
	}
	pids := func() ([]int, error) { return nil, nil }
	for _, kind := range Kinds() {
		tr, err := Open(context.Background(), Options{Kind: kind, Pids: pids})
		if slices.Contains(here, kind) {
			if err != nil || tr.Name() != kind {
				t.Errorf("%s: %v", kind, err)
			}
			continue
		}
		var no *UnavailableError
		if !errors.As(err, &no) || no.What != kind || no.Why == "" || no.Remedy == "" {
			t.Errorf("%s: %v", kind, err)
		}
	}
	for _, kind := range []string{"", Auto} {
		if tr, err := Open(context.Background(), Options{Kind: kind, Pids: pids}); err != nil || tr.Name() != here[0] {
			t.Errorf("%q: %v, want %s", kind, err, here[0])
		}
	}
	if _, err := Open(context.Background(), Options{Kind: "guess", Pids: pids}); err == nil {
		t.Error("a kind that does not exist was opened")
	}
	if _, err := Open(context.Background(), Options{}); err == nil {
		t.Error("opened with nobody to ask for processes")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	c := start(t, "idle")
	before := descriptors(t, c.pid())
	for range 20 {
		tr := open(t, WP, c.pids)
		scan(t, tr)
		scan(t, tr)
		if held(t, c.pid()) == 0 {
			t.Fatal("nothing is registered")
		}
		if err := tr.Close(); err != nil {
			t.Fatal(err)
		}
		if n := held(t, c.pid()); n > 0 {
			t.Fatalf("%d ranges stay registered", n)
		}
		if _, err := tr.Scan(context.Background()); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a closed tracker scans: %v", err)
		}
	}
	if after := descriptors(t, c.pid()); !slices.Equal(before, after) {
		t.Errorf("descriptors were %v, are %v", before, after)
	}
}

func TestTheAgentsDeathLeavesNothing(t *testing.T) {
	c := start(t, "idle")
	before := descriptors(t, c.pid())
	for range 3 {
		agent := start(t, "agent", "TRACK_TEST_TARGET="+strconv.Itoa(c.pid()))
		if held(t, c.pid()) == 0 {
			t.Fatal("nothing is registered")
		}
		if err := unix.Kill(agent.pid(), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if l := agent.line(); l != "" {
			t.Fatalf("the agent says %q", l)
		}
		_, _ = agent.cmd.Process.Wait()
		if n := held(t, c.pid()); n > 0 {
			t.Errorf("%d ranges stay registered", n)
		}
	}
	if after := descriptors(t, c.pid()); !slices.Equal(before, after) {
		t.Errorf("descriptors were %v, are %v", before, after)
	}
	status, err := os.ReadFile(procPath(c.pid(), "status"))
	if err != nil || !strings.Contains(string(status), "TracerPid:\t0\n") {
		t.Errorf("still traced: %v", err)
	}
	awaitState(t, c.pid(), "SR")
}

func TestManyMappingsAndSparseOnes(t *testing.T) {
	const mappings, tera = 10000, 1 << 40
	for _, kind := range kindsHere(t) {
		t.Run(kind, func(t *testing.T) {
			c := start(t, "vmas", "TRACK_TEST_STDIN=1")
			var base, sparse uint64
			if _, err := fmt.Sscan(c.line(), &base, &sparse); err != nil {
				t.Fatal(err)
			}
			tr := open(t, kind, c.pids)
			dest := copies{}
			first := scan(t, tr)
			for i := range uint64(mappings) {
				if a := base + 2*i*PageSize; !holds(first[0].Pages, a) {
					t.Fatalf("page %d of %d at %#x is not reported", i, mappings, a)
				}
			}
			dest.apply(t, tr, first)
			for _, i := range []uint64{0, 17, mappings - 1} {
				c.say(strconv.FormatUint(i, 10))
				if l := c.line(); l != "done" {
					t.Fatalf("the program says %q", l)
				}
				pages := scan(t, tr)
				for _, want := range []uint64{base + 2*i*PageSize, sparse + PageSize} {
					if !holds(pages[0].Pages, want) {
						t.Errorf("written page %#x is not reported", want)
					}
				}
				for _, quiet := range []uint64{base + 2*5000*PageSize, sparse + tera - PageSize} {
					if holds(pages[0].Pages, quiet) {
						t.Errorf("page %#x is reported though nobody wrote to it", quiet)
					}
				}
				dest.apply(t, tr, pages)
			}
			c.stop()
			if n := dest.check(t, final(t, tr)); n < mappings {
				t.Errorf("only %d pages are clean", n)
			}
		})
	}
}

func TestASecondProcessWithTheSameMemory(t *testing.T) {
	c := start(t, "idle")
	tasks, err := os.ReadDir(procPath(c.pid(), "task"))
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads %v, %v", tasks, err)
	}
	other, err := strconv.Atoi(tasks[1].Name())
	if err != nil {
		t.Fatal(err)
	}
	tr := open(t, WP, func() ([]int, error) { return []int{c.pid(), other}, nil })
	dest := copies{}
	for range 2 {
		procs := scan(t, tr)
		if len(procs) != 2 || len(procs[1].Pages) > 0 {
			t.Errorf("got %+v", procs)
		}
		dest.apply(t, tr, procs)
	}
	c.stop()
	procs := final(t, tr)
	if len(procs) != 2 || len(procs[0].Pages) == 0 || len(procs[1].Pages) > 0 {
		t.Errorf("got %+v", procs)
	}
}

func TestAScanThatIsBrokenOffLosesNothing(t *testing.T) {
	for _, kind := range kindsHere(t) {
		c := start(t, "idle")
		ctx, cancel := context.WithCancel(context.Background())
		stopNow := false
		tr := open(t, kind, func() ([]int, error) {
			if stopNow {
				cancel()
			}
			return c.pids()
		})
		copies{}.apply(t, tr, scan(t, tr))
		stopNow = true
		if _, err := tr.Scan(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("%s: %v", kind, err)
		}
		stopNow = false
		if p := scan(t, tr); len(p) != 1 || !p[0].Reset || len(p[0].Pages) == 0 {
			t.Errorf("%s: afterwards %+v", kind, p)
		}
		cancel()
	}
}

// freezerOf makes a cgroup with a freezer for the test and returns its directory, and what to write where to freeze and thaw.
func freezerOf(t *testing.T) (dir, file, freeze, thaw string) {
	t.Helper()
	name := "migrate-track-test-" + strconv.Itoa(os.Getpid())
	dir = "/sys/fs/cgroup/freezer/" + name
	file, freeze, thaw = "freezer.state", "FROZEN", "THAWED"
	err := os.Mkdir(dir, 0o700)
	if err != nil {
		dir, file, freeze, thaw = "/sys/fs/cgroup/"+name, "cgroup.freeze", "1", "0"
		err = os.Mkdir(dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir, file, freeze, thaw
}

func TestAFrozenProcessHoldsNobodyUp(t *testing.T) {
	needRoot(t)
	dir, file, freeze, thaw := freezerOf(t)
	c := start(t, "idle")
	write := func(name, s string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0); err != nil {
			t.Fatal(err)
		}
	}
	write("cgroup.procs", strconv.Itoa(c.pid()))
	write(file, freeze)
	tr := open(t, WP, c.pids)
	dest := copies{}
	dest.apply(t, tr, scan(t, tr))
	dest.check(t, final(t, tr))
	write(file, thaw)
	awaitState(t, c.pid(), "SR")
	dest.apply(t, tr, scan(t, tr))
	if held(t, c.pid()) == 0 {
		t.Error("not protected after it was thawed")
	}
	c.stop()
	if n := dest.check(t, final(t, tr)); n == 0 {
		t.Error("nothing is clean")
	}
	_ = unix.Kill(c.pid(), unix.SIGKILL)
	_, _ = c.cmd.Process.Wait() // so that the cgroup is empty
}
