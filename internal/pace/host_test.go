package pace

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParseIdle(t *testing.T) {
	got, err := parseIdle([]byte("cpu  10 20 30 400 50 0 7 0 0 0\ncpu0 1 2 3 4 5 0 0 0 0 0\n"))
	if err != nil || got != 4500*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "cpu", "cpu  1 2 3", "cpu0 1 2 3 4 5 6 7", "cpu  1 2 3 four 5 6 7"} {
		if _, err := parseIdle([]byte(bad)); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

// Of a real host: time passes, this process takes some of it, and nobody takes more than there is.
func TestHost(t *testing.T) {
	h, err := OpenHost(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	a, err := h.Sample()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Millisecond); time.Now().Before(end); {
		continue
	}
	b, err := h.Sample()
	if err != nil {
		t.Fatal(err)
	}
	u := between(a, b)
	if u.took < 30*time.Millisecond || b.Self <= a.Self || b.Idle < a.Idle || b.Container < a.Container || u.self > float64(runtime.NumCPU()) {
		t.Errorf("%+v between %+v and %+v", u, a, b)
	}
}
