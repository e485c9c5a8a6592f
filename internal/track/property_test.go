package track

import (
	"bytes"
	"context"
	"crypto/rand"
	"flag"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A longer search for stale pages: go test -run 'Clean|Device' -freezes 1000.
var freezes = flag.Int("freezes", 6, "how often the programs are stopped and their memory is compared")

// copies is what a destination holds: pages by process and address.
type copies map[int]map[uint64][]byte

// apply does with the result of a scan what a source and a destination do.
func (c copies) apply(t *testing.T, tr Tracker, procs []Proc) (pages int) {
	t.Helper()
	for _, p := range procs {
		if p.Reset || c[p.VPid] == nil {
			c[p.VPid] = map[uint64][]byte{}
		}
		mem := c[p.VPid]
		for _, v := range p.Void {
			for a := range mem {
				if a >= v.Start && a < v.End {
					delete(mem, a)
				}
			}
		}
		pages += int(Bytes(p.Pages) / PageSize)
		for _, batch := range batches(p.Pages, BatchSize, maxRanges) {
			buf := make([]byte, Bytes(batch))
			failed, err := Reader{p.Pid}.Read(batch, buf)
			if err == ErrGone {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			data := buf
			for _, r := range batch {
				for a := r.Start; a < r.End; a, buf = a+PageSize, buf[PageSize:] {
					delete(mem, a)
					if !holds(failed, a) {
						mem[a] = buf[:PageSize]
					}
				}
			}
			for _, r := range batch {
				for a := r.Start; a < r.End; a, data = a+PageSize, data[PageSize:] {
					if !holds(failed, a) {
						tr.Copied(p.Pid, []Range{{a, a + PageSize}}, data[:PageSize])
					}
				}
			}
		}
	}
	return pages
}

// check compares all that is called clean with real memory and returns how many pages that were.
func (c copies) check(t *testing.T, procs []Proc) (clean int) {
	t.Helper()
	for _, p := range procs {
		if p.Reset && len(p.Pages) > 0 {
			t.Errorf("process %d is new, yet has clean pages", p.Pid)
		}
		for _, batch := range batches(p.Pages, BatchSize, maxRanges) {
			buf := make([]byte, Bytes(batch))
			failed, err := Reader{p.Pid}.Read(batch, buf)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range batch {
				for a := r.Start; a < r.End; a, buf = a+PageSize, buf[PageSize:] {
					clean++
					have := c[p.VPid][a]
					switch {
					case holds(failed, a) && have == nil: // nobody can read it, before and now
					case have == nil:
						t.Errorf("process %d page %#x: clean, but never copied", p.Pid, a)
					case !bytes.Equal(have, buf[:PageSize]):
						t.Errorf("process %d page %#x: clean, but its copy differs", p.Pid, a)
					}
				}
			}
		}
	}
	return clean
}

func kindsHere(t *testing.T) []string {
	t.Helper()
	needRoot(t)
	return Available()
}

func open(t *testing.T, kind string, pids func() ([]int, error)) Tracker {
	t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	tr, err := Open(context.Background(), Options{Kind: kind, Pids: pids,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

func scan(t *testing.T, tr Tracker) []Proc {
	t.Helper()
	procs, err := tr.Scan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return procs
}

func final(t *testing.T, tr Tracker) []Proc {
	t.Helper()
	procs, err := tr.Final(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return procs
}

// follow scans and copies while a program runs, stops it again and again, and compares.
func follow(t *testing.T, kind string, c *child, scans int, before ...func(Tracker)) (clean int) {
	t.Helper()
	tr := open(t, kind, c.pids)
	dest := copies{}
	for range *freezes {
		for range scans {
			for _, f := range before {
				f(tr)
			}
			dest.apply(t, tr, scan(t, tr))
		}
		c.stop()
		clean += dest.check(t, final(t, tr))
		clean += dest.check(t, final(t, tr)) // it changes nothing
		c.cont()
		if t.Failed() {
			break
		}
	}
	return clean
}

func TestWhatIsCleanIsWhatWasCopied(t *testing.T) {
	for _, kind := range kindsHere(t) {
		t.Run(kind, func(t *testing.T) {
			clean := follow(t, kind, start(t, "memory"), 3)
			if still := 512 * 2 * *freezes; clean < still {
				t.Errorf("%d pages were clean, but %d are never written", clean, still)
			}
		})
	}
}

// Now and then a process cannot be held, and what is new in it is compared by content.
func TestWhatIsCleanOfAProcessThatCannotBeHeld(t *testing.T) {
	c := start(t, "memory")
	clean := follow(t, WP, c, 6, func(tr Tracker) {
		for _, p := range tr.(*tracker).procs {
			if w, ok := p.method.(*wpMethod); ok && mrand.IntN(2) == 0 {
				w.busy.left = 1
			}
		}
	})
	if still := 512 * 2 * *freezes; clean < still {
		t.Errorf("%d pages were clean, but %d are never written", clean, still)
	}
}

func TestNothingOfAnEarlierProgramIsClean(t *testing.T) {
	for _, kind := range kindsHere(t) {
		t.Run(kind, func(t *testing.T) {
			c := start(t, "exec")
			tr := open(t, kind, c.pids)
			dest := copies{}
			resets := 0
			for end := time.Now().Add(time.Minute); resets < 4; {
				for range 3 {
					procs := scan(t, tr)
					for _, p := range procs {
						if p.Reset {
							resets++
						}
					}
					dest.apply(t, tr, procs)
				}
				c.stop()
				dest.check(t, final(t, tr))
				c.cont()
				time.Sleep(5 * time.Millisecond) // or the program, stopped most of the time, hardly gets on
				if time.Now().After(end) {
					t.Fatalf("only %d programs were seen", resets)
				}
			}
		})
	}
}

func TestPagesThatADeviceFills(t *testing.T) {
	name := filepath.Join(t.TempDir(), "data")
	data := make([]byte, 4<<20)
	_, _ = rand.Read(data)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range kindsHere(t) {
		t.Run(kind, func(t *testing.T) {
			follow(t, kind, start(t, "direct", "TRACK_TEST_FILE="+name), 5)
		})
	}
}
