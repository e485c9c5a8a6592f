package layers_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"migrate/layers"
	"migrate/layers/layertest"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes whiteouts, owners and trusted attributes")
	}
}

// pair is a source and a destination directory, and what the source knows of the
// destination.
type pair struct {
	t        testing.TB
	src, dst string
	index    *layers.Index
}

func newPair(t testing.TB) *pair {
	needRoot(t)
	p := &pair{t: t, src: filepath.Join(t.TempDir(), "src"), dst: filepath.Join(t.TempDir(), "dst")}
	for _, d := range []string{p.src, p.dst} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// round sends and applies one round.
func (p *pair) round(o layers.Options) (sent, applied layers.Stats) {
	p.t.Helper()
	var b bytes.Buffer
	index, sent, err := layers.WriteDelta(context.Background(), &b, p.src, p.index, o)
	if err != nil {
		p.t.Fatalf("write delta: %v", err)
	}
	if sent.StreamBytes != int64(b.Len()) {
		p.t.Errorf("StreamBytes %d, stream has %d", sent.StreamBytes, b.Len())
	}
	applied, err = layers.Apply(context.Background(), &b, p.dst, layers.Limits{AllowDevices: o.AllowDevices})
	if err != nil {
		p.t.Fatalf("apply: %v", err)
	}
	p.index = index
	return sent, applied
}

func (p *pair) mustBeEqual() {
	p.t.Helper()
	if d := diff(p.t, p.src, p.dst); d != "" {
		p.t.Fatalf("trees differ:\n%s", d)
	}
}

func diff(t testing.TB, a, b string) string {
	t.Helper()
	want, err := layertest.Snapshot(a)
	if err != nil {
		t.Fatal(err)
	}
	got, err := layertest.Snapshot(b)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(layertest.Diff(want, got), "\n")
}

func TestRandomTrees(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 5
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			p := newPair(t)
			if err := layertest.Populate(p.src, 120, uint64(seed)); err != nil {
				t.Fatal(err)
			}
			p.round(layers.Options{})
			p.mustBeEqual()
			m := layertest.NewMutator(p.src, uint64(seed)+1000)
			for range 5 {
				if err := m.Mutate(25); err != nil {
					t.Fatal(err)
				}
				p.round(layers.Options{MoveThreshold: 4096})
				p.mustBeEqual()
			}
			p.round(layers.Options{Final: true})
			p.mustBeEqual()
		})
	}
}

func TestSeveralRoundsBetween(t *testing.T) {
	p := newPair(t)
	m := layertest.NewMutator(p.src, 99)
	if err := layertest.Populate(p.src, 300, 99); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		p.round(layers.Options{BlockSize: 4096})
		if err := m.Mutate(200); err != nil {
			t.Fatal(err)
		}
	}
	p.round(layers.Options{Final: true})
	p.mustBeEqual()
}

func populated(t testing.TB, dir string, n int, seed uint64) *layertest.Mutator {
	t.Helper()
	if err := layertest.Populate(dir, n, seed); err != nil {
		t.Fatal(err)
	}
	return layertest.NewMutator(dir, seed+1)
}

// TestMove renames a big file into a new directory and changes a block of it.
func TestMove(t *testing.T) {
	p := newPair(t)
	big := filepath.Join(p.src, "old", "big")
	os.Mkdir(filepath.Dir(big), 0o755)
	if err := os.WriteFile(big, bytes.Repeat([]byte("data"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	p.round(layers.Options{})
	sh(t, p.src, `mkdir -p new/er && mv old/big new/er/ && rmdir old && printf x | dd of=new/er/big conv=notrunc bs=1 seek=99999 2>/dev/null`)
	sent, applied := p.round(layers.Options{Final: true})
	p.mustBeEqual()
	if sent.Moved != 1 || applied.Moved != 1 || sent.Bytes != 64<<10 {
		t.Errorf("sent %+v", sent)
	}
}

// TestDeepPath goes far beyond PATH_MAX.
func TestDeepPath(t *testing.T) {
	p := newPair(t)
	sh(t, p.src, `n=$(printf '%0200d' 0); for i in $(seq 60); do mkdir $n; cd -P ./$n 2>/dev/null || cd $n; done; echo deep > file`)
	p.round(layers.Options{})
	p.mustBeEqual()
	sh(t, p.src, `rm -r 0*; echo shallow > file`)
	p.round(layers.Options{Final: true})
	p.mustBeEqual()
}

func BenchmarkUnchanged10k(b *testing.B) {
	p := newPair(b)
	for d := range 200 {
		dir := filepath.Join(p.src, fmt.Sprint(d))
		os.Mkdir(dir, 0o755)
		for f := range 49 {
			os.WriteFile(filepath.Join(dir, fmt.Sprint(f)), []byte("x"), 0o644)
		}
	}
	var out bytes.Buffer
	index, _, err := layers.WriteDelta(context.Background(), &out, p.src, nil, layers.Options{Racy: -1})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		out.Reset()
		_, s, err := layers.WriteDelta(context.Background(), &out, p.src, index, layers.Options{Final: true, Racy: -1})
		if err != nil || s.Entries != 0 || s.Scanned != 10001 {
			b.Fatal(err, s)
		}
	}
}
