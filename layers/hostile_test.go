package layers

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"migrate/layers/layertest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// jail is a directory for Apply beside things that it must not touch.
type jail struct {
	outer, upper string
	before       layertest.Picture
}

func newJail(t testing.TB) *jail {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: Apply sets owners and makes whiteouts")
	}
	j := &jail{outer: t.TempDir()}
	j.upper = filepath.Join(j.outer, "upper")
	for _, d := range []string{j.upper, filepath.Join(j.outer, "outside")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(j.outer, "outside", "canary"), []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	j.before = j.outside(t)
	return j
}

// outside pictures all but the upper directory and the times of its parent.
func (j *jail) outside(t testing.TB) layertest.Picture {
	t.Helper()
	pic, err := layertest.Snapshot(j.outer)
	if err != nil {
		t.Fatal(err)
	}
	for p := range pic {
		if p == "./upper" || strings.HasPrefix(p, "./upper/") {
			delete(pic, p)
		}
	}
	return pic
}

func (j *jail) apply(t testing.TB, stream []byte, l Limits) error {
	t.Helper()
	_, err := Apply(context.Background(), bytes.NewReader(stream), j.upper, l)
	if d := layertest.Diff(j.before, j.outside(t)); d != nil {
		t.Fatalf("Apply reached outside: %v", d)
	}
	return err
}

// stream returns what fn writes, ended properly.
func stream(t testing.TB, fn func(e *encoder)) []byte {
	t.Helper()
	var b bytes.Buffer
	e, err := newEncoder(&b)
	if err != nil {
		t.Fatal(err)
	}
	fn(e)
	if err := e.end(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newEntry(kind uint8, path string) *entry {
	return &entry{kind: kind, flags: entryNew, mode: 0o644, path: path}
}

func file(e *encoder, path, data string) {
	e.entry(newEntry(kindFile, path))
	if data != "" {
		e.data(0, []byte(data))
	}
	e.fileEnd(int64(len(data)))
}

func symlink(e *encoder, path, target string) {
	x := newEntry(kindSymlink, path)
	x.target = target
	e.entry(x)
}

func with(e *entry, fn func(*entry)) *entry { fn(e); return e }

func TestHostileStreams(t *testing.T) {
	var format *FormatError
	var limit *LimitError
	tests := map[string]struct {
		want any
		fn   func(e *encoder)
	}{
		"dot dot":              {&format, func(e *encoder) { file(e, "../outside/new", "x") }},
		"dot dot within":       {&format, func(e *encoder) { file(e, "a/../../outside/new", "x") }},
		"absolute":             {&format, func(e *encoder) { file(e, "/tmp/layers-hostile", "x") }},
		"NUL":                  {&format, func(e *encoder) { file(e, "a\x00b", "x") }},
		"empty component":      {&format, func(e *encoder) { file(e, "a//b", "x") }},
		"dot":                  {&format, func(e *encoder) { file(e, ".", "x") }},
		"root as file":         {&format, func(e *encoder) { file(e, "", "x") }},
		"remove dot dot":       {&format, func(e *encoder) { e.remove("../outside") }},
		"remove root":          {&format, func(e *encoder) { e.remove("") }},
		"slot dot dot":         {&format, func(e *encoder) { e.putAside("../outside/canary", 0) }},
		"link to dot dot":      {&format, func(e *encoder) { e.link("a", "../outside/canary") }},
		"symlink parent":       {ErrBase, func(e *encoder) { symlink(e, "a", "../outside"); file(e, "a/new", "x") }},
		"remove through link":  {ErrBase, func(e *encoder) { e.remove("preset/canary") }},
		"slot through link":    {ErrBase, func(e *encoder) { e.putAside("preset/canary", 0) }},
		"whiteout via link":    {ErrBase, func(e *encoder) { e.whiteout("preset/w") }},
		"time via link":        {ErrBase, func(e *encoder) { e.dirTime("preset", stamp{1, 1}) }},
		"time via link parent": {ErrBase, func(e *encoder) { e.dirTime("preset/sub", stamp{1, 1}) }},
		"write through link": {ErrBase, func(e *encoder) {
			e.entry(with(newEntry(kindFile, "presetfile"), func(x *entry) { x.flags = 0 }))
		}},
		"new over link":        {ErrBase, func(e *encoder) { file(e, "presetfile", "x") }},
		"directory via link":   {ErrBase, func(e *encoder) { e.entry(with(newEntry(kindDir, "preset"), func(x *entry) { x.flags = 0 })) }},
		"hard link to symlink": {ErrBase, func(e *encoder) { e.link("l", "presetfile") }},
		"hard link via link":   {ErrBase, func(e *encoder) { e.link("l", "preset/canary") }},
		"hard link to nothing": {ErrBase, func(e *encoder) { e.link("l", "nothing") }},
		"hard link to dir":     {ErrBase, func(e *encoder) { e.entry(newEntry(kindDir, "d")); e.link("l", "d") }},
		"FIFO as file":         {ErrBase, func(e *encoder) { e.entry(with(newEntry(kindFile, "presetfifo"), func(x *entry) { x.flags = 0 })) }},
		"char device": {ErrDevice, func(e *encoder) {
			e.entry(with(newEntry(kindChar, "null"), func(x *entry) { x.major, x.minor = 1, 3 }))
		}},
		"block device":       {ErrDevice, func(e *encoder) { e.entry(with(newEntry(kindBlock, "sda"), func(x *entry) { x.major = 8 })) }},
		"whiteout as device": {&format, func(e *encoder) { e.entry(newEntry(kindChar, "w")) }},
		"trusted attribute":  {&format, func(e *encoder) { e.entry(withAttr("f", "trusted.any")) }},
		"overlay by name":    {&format, func(e *encoder) { e.entry(withAttr("f", "trusted.overlay.redirect")) }},
		"selinux":            {&format, func(e *encoder) { e.entry(withAttr("f", "security.selinux")) }},
		"redirect out": {&format, func(e *encoder) {
			e.entry(with(newEntry(kindDir, "d"), func(x *entry) { x.attrs.overlay = []overlayAttr{{id: overlayRedirect, value: "/a/../b"}} }))
		}},
		"owner -1":        {&format, func(e *encoder) { e.entry(with(newEntry(kindDir, "d"), func(x *entry) { x.uid = noID })) }},
		"mode bits":       {&format, func(e *encoder) { e.entry(with(newEntry(kindDir, "d"), func(x *entry) { x.mode = 1 << 14 })) }},
		"out of order":    {&format, func(e *encoder) { file(e, "b", ""); file(e, "a", "") }},
		"twice":           {&format, func(e *encoder) { file(e, "a", ""); file(e, "a", "") }},
		"removal late":    {&format, func(e *encoder) { file(e, "a", ""); e.remove("b") }},
		"content outside": {&format, func(e *encoder) { e.data(0, []byte("x")) }},
		"file not ended":  {&format, func(e *encoder) { e.entry(newEntry(kindFile, "a")) }},
		"record in file":  {&format, func(e *encoder) { e.entry(newEntry(kindFile, "a")); e.whiteout("b") }},
		"content back":    {&format, func(e *encoder) { e.entry(newEntry(kindFile, "a")); e.data(5, []byte("x")); e.data(0, []byte("x")) }},
		"size too small":  {&format, func(e *encoder) { e.entry(newEntry(kindFile, "a")); e.data(5, []byte("x")); e.fileEnd(3) }},
		"no such slot": {&format, func(e *encoder) {
			e.entry(with(newEntry(kindFile, "a"), func(x *entry) { x.flags |= entrySlot; x.slot = 3 }))
		}},
		"file size":   {&limit, func(e *encoder) { e.entry(newEntry(kindFile, "a")); e.fileEnd(1 << 40) }},
		"data offset": {&limit, func(e *encoder) { e.entry(newEntry(kindFile, "a")); e.data(1<<62, []byte("x")) }},
		"bytes":       {&limit, func(e *encoder) { file(e, "a", strings.Repeat("x", 5000)); file(e, "b", strings.Repeat("x", 5000)) }},
		"entries":     {&limit, func(e *encoder) { file(e, "a", ""); file(e, "b", ""); file(e, "c", ""); file(e, "d", "") }},
		"name":        {&limit, func(e *encoder) { file(e, strings.Repeat("n", 256), "") }},
		"depth":       {&limit, func(e *encoder) { file(e, strings.Repeat("d/", 50)+"d", "") }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j := newJail(t)
			for link, to := range map[string]string{"preset": "../outside", "presetfile": "../outside/canary"} {
				if err := os.Symlink(to, filepath.Join(j.upper, link)); err != nil {
					t.Fatal(err)
				}
			}
			if err := unix.Mkfifo(filepath.Join(j.upper, "presetfifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			err := j.apply(t, stream(t, tt.fn), Limits{MaxEntries: 3, MaxBytes: 8000, MaxFileSize: 1 << 30, MaxDepth: 40})
			if target, ok := tt.want.(error); ok && target != nil {
				if errors.Is(err, target) {
					return
				}
			} else if errors.As(err, tt.want) {
				return
			}
			t.Errorf("got %v, want %T", err, tt.want)
		})
	}
}

func withAttr(path, name string) *entry {
	return with(newEntry(kindFile, path), func(x *entry) { x.attrs.plain = []plainAttr{{name, "v"}} })
}

func TestDamagedStreams(t *testing.T) {
	good := stream(t, func(e *encoder) { file(e, "a", "hello"); e.dirTime("", stamp{1, 2}) })
	flip := func(i int) []byte { b := bytes.Clone(good); b[i] ^= 1; return b }
	long := bytes.Clone(good)
	binary.LittleEndian.PutUint32(long[len(magic)+1:], 1<<31)
	tests := map[string][]byte{
		"empty": nil, "magic": flip(0), "version": flip(len(magic) - 1), "hash": flip(len(good) - 1),
		"content": flip(bytes.Index(good, []byte("hello"))), "trailing": append(bytes.Clone(good), 0),
		"record length": long, "count": flip(len(good) - endLen),
	}
	for i := range len(good) {
		tests["cut at "+string(rune('A'+i%26))+string(rune('A'+i/26))] = good[:i]
	}
	for name, b := range tests {
		var format *FormatError
		if err := newJail(t).apply(t, b, Limits{}); !errors.As(err, &format) {
			t.Errorf("%s: got %v, want a FormatError", name, err)
		}
	}
	if err := newJail(t).apply(t, good, Limits{}); err != nil {
		t.Errorf("undamaged: %v", err)
	}
}

// TestReadError passes on what the reader says.
func TestReadError(t *testing.T) {
	j := newJail(t)
	_, err := Apply(context.Background(), failing{}, j.upper, Limits{})
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want ECONNRESET", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, syscall.ECONNRESET }

// TestNoSpace applies to a file system that is too small.
func TestNoSpace(t *testing.T) {
	j := newJail(t)
	if err := unix.Mount("tmpfs", j.upper, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	defer unix.Unmount(j.upper, unix.MNT_DETACH)
	s := stream(t, func(e *encoder) { file(e, "a", strings.Repeat("x", 1<<20)) })
	if _, err := Apply(context.Background(), bytes.NewReader(s), j.upper, Limits{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
}

// TestGolden holds the project to the bytes of a small tree.
func TestGolden(t *testing.T) {
	j := newJail(t)
	makeGoldenTree(t, j.upper)
	var b bytes.Buffer
	if _, _, err := WriteDelta(context.Background(), &b, j.upper, nil, Options{}); err != nil {
		t.Fatal(err)
	}
	const name = "testdata/tree.v1.stream"
	if *update {
		if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("stream differs from %s (%d bytes, want %d)", name, b.Len(), len(want))
	}
	other := newJail(t)
	if err := other.apply(t, want, Limits{}); err != nil {
		t.Fatal(err)
	}
	x, _ := layertest.Snapshot(j.upper)
	y, _ := layertest.Snapshot(other.upper)
	if d := layertest.Diff(x, y); d != nil {
		t.Errorf("golden stream makes another tree: %v", d)
	}
}

func makeGoldenTree(t *testing.T, dir string) {
	t.Helper()
	p := func(name string) string { return filepath.Join(dir, name) }
	for _, err := range []error{
		os.Mkdir(p("dir"), 0o750),
		unix.Lsetxattr(p("dir"), "trusted.overlay.opaque", []byte("y"), 0),
		unix.Lsetxattr(p("dir"), "trusted.overlay.redirect", []byte("/was/here"), 0),
		os.WriteFile(p("dir/file"), []byte("content\n"), 0o640),
		unix.Lsetxattr(p("dir/file"), "user.note", []byte("v"), 0),
		unix.Chmod(p("dir/file"), 0o4755),
		os.Link(p("dir/file"), p("dir/link")),
		os.Symlink("dir/file", p("symlink")),
		unix.Mkfifo(p("fifo"), 0o600),
		unix.Mknod(p("socket"), unix.S_IFSOCK|0o700, 0),
		unix.Mknod(p("whiteout"), unix.S_IFCHR, 0),
		os.WriteFile(p("sparse"), nil, 0o600),
		os.Truncate(p("sparse"), 1<<20),
		os.Lchown(p("symlink"), 1000, 1001),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: 1_000_000_000, Nsec: 123_456_789}}
	for _, name := range []string{"dir/file", "dir", "symlink", "fifo", "socket", "sparse", ""} {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p(name), ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFinalChange: with every task frozen, a file that changes under the reader
// is an error.
func TestFinalChange(t *testing.T) {
	j := newJail(t)
	big := filepath.Join(j.upper, "big")
	if err := os.WriteFile(big, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err := WriteDelta(context.Background(), truncating(big), j.upper, nil, Options{Final: true})
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Path != "big" {
		t.Errorf("final round: got %v, want a ChangedError", err)
	}
	if err := os.WriteFile(big, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	x, s, err := WriteDelta(context.Background(), truncating(big), j.upper, nil, Options{})
	if err != nil || x.Unsettled() != 1 || s.Unsettled != 1 {
		t.Errorf("running: %v, %+v", err, s)
	}
}

// truncating is a writer that cuts a file short once bytes arrive.
type truncating string

func (p truncating) Write(b []byte) (int, error) { return len(b), os.Truncate(string(p), 100) }

func TestCancelled(t *testing.T) {
	j := newJail(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := WriteDelta(ctx, &bytes.Buffer{}, j.upper, nil, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteDelta: %v", err)
	}
	if _, err := Apply(ctx, bytes.NewReader(stream(t, func(*encoder) {})), j.upper, Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
}

func TestTreeLimits(t *testing.T) {
	j := newJail(t)
	if err := layertest.Populate(j.upper, 30, 1); err != nil {
		t.Fatal(err)
	}
	var limit *LimitError
	if _, _, err := WriteDelta(context.Background(), &bytes.Buffer{}, j.upper, nil, Options{MaxEntries: 5}); !errors.As(err, &limit) {
		t.Errorf("MaxEntries: %v", err)
	}
	u, err := Measure(context.Background(), j.upper)
	if err != nil || u.Entries < 20 || u.Bytes < 4096 {
		t.Errorf("Measure: %+v, %v", u, err)
	}
	if err := unix.Mknod(filepath.Join(j.upper, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := WriteDelta(context.Background(), &bytes.Buffer{}, j.upper, nil, Options{}); !errors.Is(err, ErrDevice) {
		t.Errorf("device: %v", err)
	}
	var b bytes.Buffer
	if _, _, err := WriteDelta(context.Background(), &b, j.upper, nil, Options{AllowDevices: true}); err != nil {
		t.Fatal(err)
	}
	if err := newJail(t).apply(t, b.Bytes(), Limits{AllowDevices: true}); err != nil {
		t.Errorf("allowed device: %v", err)
	}
}

// FuzzApply feeds damaged streams, once to an empty directory and once to one
// that a first round has filled.
func FuzzApply(f *testing.F) {
	src := newJail(f)
	if err := layertest.Populate(src.upper, 25, 3); err != nil {
		f.Fatal(err)
	}
	var first, second bytes.Buffer
	x, _, err := WriteDelta(context.Background(), &first, src.upper, nil, Options{BlockSize: 4096})
	if err != nil {
		f.Fatal(err)
	}
	if err := layertest.NewMutator(src.upper, 4).Mutate(20); err != nil {
		f.Fatal(err)
	}
	if _, _, err := WriteDelta(context.Background(), &second, src.upper, x, Options{BlockSize: 4096, MoveThreshold: 1}); err != nil {
		f.Fatal(err)
	}
	f.Add(second.Bytes())
	f.Add(stream(f, func(e *encoder) { symlink(e, "a", "../outside"); file(e, "b", "x"); e.link("c", "b"); e.whiteout("d") }))
	f.Add(stream(f, func(e *encoder) {
		e.putAside("f", 1)
		e.remove("s")
		e.entry(with(newEntry(kindFile, "g"), func(x *entry) { x.flags |= entrySlot; x.slot = 1 }))
		e.data(0, []byte("x"))
		e.hole(1, 9)
		e.fileEnd(4)
		e.dirTime("", stamp{1, 1})
	}))
	base := stream(f, func(e *encoder) {
		e.entry(newEntry(kindDir, "d"))
		symlink(e, "d/up", "../../outside")
		file(e, "f", "base")
		e.link("l", "f")
		symlink(e, "s", "../outside")
	})
	l := Limits{MaxEntries: 500, MaxBytes: 1 << 20, MaxFileSize: 8 << 20}
	f.Fuzz(func(t *testing.T, b []byte) {
		j := newJail(t)
		_ = j.apply(t, b, l) // any error will do: apply checks what lies outside
		j = newJail(t)
		if err := j.apply(t, base, l); err != nil {
			t.Fatal(err)
		}
		_ = j.apply(t, b, l)
	})
}
