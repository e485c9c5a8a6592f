package track

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const pg = PageSize

func TestRanges(t *testing.T) {
	a := normal([]Range{{5 * pg, 6 * pg}, {1 * pg, 3 * pg}, {2 * pg, 4 * pg}, {6 * pg, 7 * pg}})
	if want := []Range{{1 * pg, 4 * pg}, {5 * pg, 7 * pg}}; !reflect.DeepEqual(a, want) {
		t.Errorf("normal: %v", a)
	}
	if Bytes(a) != 5*pg {
		t.Errorf("bytes: %d", Bytes(a))
	}
	for _, c := range []struct{ a, b, want []Range }{
		{a, nil, a},
		{a, a, nil},
		{a, []Range{{0, 100 * pg}}, nil},
		{a, []Range{{2 * pg, 3 * pg}, {4 * pg, 6 * pg}}, []Range{{1 * pg, 2 * pg}, {3 * pg, 4 * pg}, {6 * pg, 7 * pg}}},
		{[]Range{{0, 2 * pg}, {3 * pg, 4 * pg}}, []Range{{pg, 4 * pg}}, []Range{{0, pg}}},
	} {
		if got := minus(c.a, c.b); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v minus %v is %v, want %v", c.a, c.b, got, c.want)
		}
	}
	for addr, want := range map[uint64]bool{0: false, pg: true, 3*pg + 1: true, 4 * pg: false, 5 * pg: true, 7 * pg: false} {
		if holds(a, addr) != want {
			t.Errorf("holds %#x is %v", addr, !want)
		}
	}
	got := batches([]Range{{0, 5 * pg}, {6 * pg, 7 * pg}, {8 * pg, 9 * pg}, {10 * pg, 11 * pg}}, 3*pg, 2)
	want := [][]Range{{{0, 3 * pg}}, {{3 * pg, 5 * pg}, {6 * pg, 7 * pg}}, {{8 * pg, 9 * pg}, {10 * pg, 11 * pg}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("batches: %v", got)
	}
}

func TestMapsAreUnderstood(t *testing.T) {
	s, err := parseMaps([]byte(`00400000-00401000 r-xp 00000000 fe:00 12                         /bin/a b (deleted)
00601000-00602000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000001000 rw-p 00000000 00:00 0 
7f0000000000-7f0000003000 rw-p 00000000 00:00 0                          [anon:grown while we read]
7f0000200000-7f0000400000 rw-p 00000000 00:0f 77                         /anon_hugepage (deleted)
7f0001000000-7f0001001000 rw-s 00000000 00:01 9                          /dev/zero (deleted)
7f0001001000-7f0001002000 rw-s 00000000 00:11 9                          /[aio] (deleted)
7ffe00000000-7ffe00021000 rw-p 00000000 00:00 0                          [stack]
7ffe000fc000-7ffe00100000 r--p 00000000 00:00 0                          [vvar]
7ffe00100000-7ffe00102000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := space{
		private: []vma{
			{Range{0x400000, 0x401000}, false},
			{Range{0x601000, 0x602000}, true},
			{Range{0x7f0000000000, 0x7f0000001000}, true},
			{Range{0x7f0000001000, 0x7f0000003000}, true},
			{Range{0x7f0000200000, 0x7f0000400000}, false},
			{Range{0x7ffe00000000, 0x7ffe00021000}, true},
		},
		vdso: Range{0x7ffe00100000, 0x7ffe00102000},
		aio:  true,
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("got  %+v\nwant %+v", s, want)
	}
	for _, bad := range []string{"x", "1000-2000", "2000-1000 rw-p 0 00:00 0", "1000-2000 rw-p 0 00:00", "1000-20g0 rw-p 0 00:00 0", "-1 rw-p 0 0 0"} {
		if _, err := parseMaps([]byte(bad)); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestStatusIsUnderstood(t *testing.T) {
	own, err := readStat(os.Getpid())
	if err != nil || own.parent != os.Getppid() || own.start == 0 || own.stack == 0 || own.dead() {
		t.Errorf("got %+v, %v", own, err)
	}
	line := "7 (a) R (b) Z 3" + string(bytes.Repeat([]byte(" 9"), 50))
	if s, err := parseStat([]byte(line)); err != nil || s.parent != 3 || !s.dead() {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, bad := range []string{"", "7 (a) R 1 2", "7 (a) R x" + string(bytes.Repeat([]byte(" 9"), 50))} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

func TestAnotherProgramIsAnotherIdentity(t *testing.T) {
	needRoot(t)
	a, _, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if b, _, err := identify(os.Getpid()); err != nil || a != b {
		t.Errorf("%+v then %+v, %v", a, b, err)
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := identify(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestWordsOfThePagemap(t *testing.T) {
	const own = wordPresent | wordExclusive
	words := []uint64{
		own | 5, own | 6, // quiet
		own | wordSoftDirty,                 // written
		wordPresent,                         // shared by a fork, or the page of zeros
		0,                                   // empty
		wordSwapped | wordSoftDirty,         // written, then swapped out
		wordPresent | wordFile, wordSwapped, // a file's page; swapped out
		own,
	}
	var b []byte
	for _, w := range words {
		b = binary.NativeEndian.AppendUint64(b, w)
	}
	var got []found
	decodeWords(b, 0x1000, func(f found) { got = append(got, f) })
	want := []found{
		{Range{0x1000, 0x3000}, true},
		{Range{0x3000, 0x5000}, false},
		{Range{0x6000, 0x7000}, false},
		{Range{0x8000, 0x9000}, false},
		{Range{0x9000, 0xa000}, true},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestBothWaysToListPagesAgree(t *testing.T) {
	needRoot(t)
	const n = 300
	mem, err := mapPages(n)
	if err != nil {
		t.Fatal(err)
	}
	defer unmapPages(mem)
	for i := 0; i < n; i += 1 + i%3 {
		mem[i*pg] = 1
	}
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := func(l lister) []Range {
		var rs []Range
		if err := l.list(f, rangeOf(mem), func(f found) { rs = add(rs, f.Range) }); err != nil {
			t.Fatal(err)
		}
		return rs
	}
	words := all(&wordLister{buf: make([]byte, 7*8)})
	if Bytes(words) == 0 || Bytes(words) == n*pg {
		t.Errorf("got %v", words)
	}
	if scans := all(newLister()); !reflect.DeepEqual(words, scans) {
		t.Errorf("words say  %v\nthe scan says %v", words, scans)
	}
}

func TestReadTellsWhatIsGone(t *testing.T) {
	needRoot(t)
	const n = 64
	// a place where the kernel maps nothing by itself, so that the holes stay
	p := mmap(0x120000000000, n*pg, readWrite, anonymous|unix.MAP_FIXED, -1)
	defer munmap(p, n*pg)
	all := Range{uint64(p), uint64(p) + n*pg}
	for i := range uintptr(n) {
		poke(p+i*pg, uint64(i+1))
	}
	page := func(i int) Range { return Range{all.Start + uint64(i)*pg, all.Start + uint64(i+1)*pg} }
	for _, i := range []int{5, 20, 21, 63} {
		munmap(uintptr(page(i).Start), pg)
	}
	// what may not be read is there nevertheless
	if _, _, errno := unix.Syscall(unix.SYS_MPROTECT, uintptr(page(30).Start), pg, unix.PROT_NONE); errno != 0 {
		t.Fatal(errno)
	}
	ranges := []Range{page(0), {page(2).Start, page(40).End}, page(50), {page(60).Start, page(63).End}}
	buf := bytes.Repeat([]byte{0xee}, int(Bytes(ranges))+pg)
	failed, err := Reader{os.Getpid()}.Read(ranges, buf)
	if err != nil {
		t.Fatal(err)
	}
	if want := []Range{page(5), {page(20).Start, page(21).End}, page(63)}; !reflect.DeepEqual(failed, want) {
		t.Errorf("failed %x, want %x", failed, want)
	}
	at := 0
	for _, r := range ranges {
		for a := r.Start; a < r.End; a, at = a+pg, at+pg {
			want := make([]byte, pg)
			if !holds(failed, a) {
				want[0] = byte((a-all.Start)/pg + 1)
			}
			if !bytes.Equal(buf[at:at+pg], want) {
				t.Errorf("page %d is wrong", (a-all.Start)/pg)
			}
		}
	}
	if buf[at] != 0xee {
		t.Error("wrote too far")
	}
	if _, err := (Reader{os.Getpid()}).Read(ranges, buf[:pg]); err == nil {
		t.Error("a buffer that is too small was taken")
	}
}

func TestReadManyRanges(t *testing.T) {
	needRoot(t)
	const n = 2*maxRanges + 5
	mem, err := mapPages(2 * n)
	if err != nil {
		t.Fatal(err)
	}
	defer unmapPages(mem)
	var ranges []Range
	for i := range n {
		mem[2*i*pg], mem[2*i*pg+1] = byte(i), byte(i>>8)
		start := rangeOf(mem).Start + uint64(2*i*pg)
		ranges = append(ranges, Range{start, start + pg})
	}
	buf := NewBuffer(n * pg)
	if failed, err := (Reader{os.Getpid()}).Read(ranges, buf); err != nil || failed != nil {
		t.Fatal(failed, err)
	}
	for i := range n {
		if int(buf[i*pg])|int(buf[i*pg+1])<<8 != i {
			t.Fatalf("page %d is wrong", i)
		}
	}
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if _, err := (Reader{cmd.Process.Pid}).Read(ranges, buf); !errors.Is(err, ErrGone) {
		t.Errorf("a process that has ended: %v", err)
	}
}

func TestSums(t *testing.T) {
	s := newSums(newHasher())
	data := bytes.Repeat([]byte{1, 2, 3, 4}, 3*pg/4)
	s.put(62*pg, data) // across chunks
	split := func(r Range) (known, unknown []Range) {
		s.split(r, func(r Range) { known = add(known, r) }, func(r Range) { unknown = add(unknown, r) })
		return known, unknown
	}
	known, unknown := split(Range{60 * pg, 70 * pg})
	if !reflect.DeepEqual(known, []Range{{62 * pg, 65 * pg}}) || !reflect.DeepEqual(unknown, []Range{{60 * pg, 62 * pg}, {65 * pg, 70 * pg}}) {
		t.Errorf("known %v, unknown %v", known, unknown)
	}
	if !s.is(64*pg, data[:pg]) || s.is(64*pg, make([]byte, pg)) || s.is(65*pg, data[:pg]) {
		t.Error("content is not told")
	}
	s.drop(Range{63 * pg, 64 * pg})
	if s.is(63*pg, data[:pg]) || !s.is(62*pg, data[:pg]) {
		t.Error("the wrong page was dropped")
	}
	s.turn()
	split(Range{64 * pg, 65 * pg})
	s.turn()
	if s.is(62*pg, data[:pg]) || !s.is(64*pg, data[:pg]) {
		t.Error("what is looked for was forgotten, or what is not stayed")
	}
}

// TestBackoff counts the scans between two tries.
func TestBackoff(t *testing.T) {
	var b backoff
	var gaps []int
	for range 8 {
		gap := 0
		for b.rests() {
			gap++
		}
		gaps = append(gaps, gap)
		b.note(true)
	}
	if want := []int{0, 1, 3, 7, 15, 31, 63, 63}; !slices.Equal(gaps, want) {
		t.Errorf("scans without a try are %v, want %v", gaps, want)
	}
	b.note(false)
	for range 2 {
		if b.rests() {
			t.Error("it rests after a try that went well")
		}
	}
}

func TestCommon(t *testing.T) {
	list := []Range{{10, 20}, {20, 30}, {40, 50}}
	for _, c := range []struct {
		r    Range
		want []Range
	}{
		{Range{0, 10}, nil}, {Range{30, 40}, nil}, {Range{50, 60}, nil}, {Range{12, 18}, []Range{{12, 18}}},
		{Range{0, 60}, list}, {Range{15, 45}, []Range{{15, 20}, {20, 30}, {40, 45}}}, {Range{20, 21}, []Range{{20, 21}}},
	} {
		if got := common(c.r, list); !slices.Equal(got, c.want) {
			t.Errorf("common of %v: %v, want %v", c.r, got, c.want)
		}
	}
}
