package track

import (
	"os/exec"
	"testing"
)

// A process that is new when everything stands still is not taken in, since nothing can be put into it; one that is known is
// scanned as ever.
func TestStillTakesNobodyIn(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	tr, err := Open(t.Context(), Options{Pids: func() ([]int, error) { return []int{cmd.Process.Pid}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for range 2 {
		procs, err := tr.Still(t.Context())
		if err != nil || len(procs) != 1 || !procs[0].Reset || len(procs[0].Pages) > 0 {
			t.Fatalf("%+v, %v, want a process without pages", procs, err)
		}
		final, err := tr.Final(t.Context())
		if err != nil || len(final) != 1 || len(final[0].Pages) > 0 {
			t.Fatalf("%+v, %v, want nothing clean", final, err)
		}
	}
	procs, err := tr.Scan(t.Context())
	if err != nil || len(procs) != 1 || !procs[0].Reset || len(procs[0].Pages) == 0 {
		t.Fatalf("%+v, %v, want all pages", procs, err)
	}
	procs, err = tr.Still(t.Context())
	if err != nil || len(procs) != 1 || procs[0].Reset {
		t.Fatalf("%+v, %v, want a process that is known", procs, err)
	}
}
