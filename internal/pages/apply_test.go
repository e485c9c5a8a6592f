package pages

import (
	"bytes"
	"errors"
	"flag"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"migrate/transfer"
)

// What streams arrive in hands out its own buffers.
var _ io.WriterTo = (*transfer.StreamReader)(nil)

var update = flag.Bool("update", false, "write the golden files anew; that is a change of the protocol")

// filled is a page of one byte's value with a few others.
func filled(b byte, at ...int) []byte {
	p := bytes.Repeat([]byte{b}, PageSize)
	for _, i := range at {
		p[i]++
	}
	return p
}

var zeros = make([]byte, PageSize)

// goldenRounds have every record and every sort of page.
var goldenRounds = []func(e *Encoder) error{
	func(e *Encoder) error {
		return errors.Join(
			e.Pages(7, 0x400, join(filled(1), filled(2), zeros, zeros, filled(3))),
			e.Pages(-2, maxPage-2, join(filled(2), filled(4))))
	},
	func(e *Encoder) error {
		return errors.Join(e.Pages(7, 0x400, filled(1, 8)), e.Drop(7, 0x402, 2), e.Drop(-2, 0, 0), e.Pages(8, 0, filled(4)))
	},
	func(e *Encoder) error { return e.Pages(7, 0x400, filled(1, 0, 3000, 4095)) },
}

func checkGolden(t *testing.T, s *Store) {
	t.Helper()
	l := link{t: t, table: NewTable(testLimit, 0), store: s}
	for _, tt := range []struct {
		space   int32
		page    uint64
		content []byte
	}{
		{7, 0x400, filled(1, 0, 3000, 4095)}, {7, 0x401, filled(2)}, {7, 0x402, nil}, {7, 0x403, nil}, {7, 0x404, filled(3)},
		{-2, maxPage - 2, nil}, {-2, maxPage - 1, nil}, {8, 0, filled(4)},
	} {
		got := make([]byte, PageSize)
		err := s.ReadPage(tt.space, tt.page, got)
		if unknown := errors.Is(err, ErrUnknown); unknown != (tt.content == nil) || !unknown && (err != nil || !bytes.Equal(got, tt.content)) {
			l.t.Errorf("space %d page %#x is wrong: %v", tt.space, tt.page, err)
		}
	}
}

// The golden files are what sources of this version send. The code has to write them and to read them.
func TestGoldenStreams(t *testing.T) {
	l, old := newLink(t, testLimit, 1<<20), newTestStore(t, testLimit)
	for i, send := range goldenRounds {
		got := l.round(send)
		path := filepath.Join("testdata", "round-"+string(rune('1'+i))+".stream")
		if *update {
			if err := os.WriteFile(path, got, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("the stream is not what %s has: %v, want %v", path, summary(t, got), summary(t, want))
		}
		if err := old.Apply(bytes.NewReader(want)); err != nil {
			t.Error(err)
		}
	}
	checkGolden(t, l.store)
	checkGolden(t, old)
}

// sample streams: one of each kind of record, of which the second builds on the first.
func sampleStreams(t testing.TB) (first, second []byte) {
	l := newLink(t, testLimit, 1<<20)
	l.round(goldenRounds[0])
	first = l.round(goldenRounds[1])
	second = l.round(goldenRounds[2])
	return first, second
}

// Streams come cut anywhere.
func TestApplyInPieces(t *testing.T) {
	for _, size := range []int{1, 2, 3, 7, 20, 21, 22, 1000, 4095, 4096, 4097, 70000} {
		l := newLink(t, testLimit, 1<<20)
		s := newTestStore(t, testLimit)
		for _, send := range goldenRounds {
			r := &trickle{bytes.NewReader(l.round(send)), func() int { return size }}
			if err := s.Apply(r); err != nil {
				t.Fatalf("pieces of %d bytes: %v", size, err)
			}
		}
		checkGolden(t, s)
	}
}

// A stream that ends early is refused wherever it is cut.
func TestTruncation(t *testing.T) {
	first, second := sampleStreams(t)
	before := newLink(t, testLimit, 0)
	start := before.round(goldenRounds[0])
	for _, stream := range [][]byte{start, first, second} {
		s := newTestStore(t, testLimit)
		if err := s.Apply(bytes.NewReader(start)); err != nil {
			t.Fatal(err)
		}
		if err := s.Apply(bytes.NewReader(first)); err != nil {
			t.Fatal(err)
		}
		for n := range len(stream) {
			err := s.Apply(bytes.NewReader(stream[:n]))
			if f := (*FormatError)(nil); !errors.As(err, &f) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%d of %d bytes: %v", n, len(stream), err)
			}
		}
	}
}

// hostile are streams that must be refused by a store of testLimit that has slot 1 alone, with what the error says.
func hostile() map[string]struct {
	stream []byte
	says   string
} {
	const last = testLimit / PageSize
	end := []byte{recEnd}
	dataOf := func(slot uint32, n int) []byte { return join(appendData(nil, slot, n), bytes.Repeat(zeros, n), end) }
	mapOf := func(page uint64, n, slot uint32) []byte { return join(appendMap(nil, mapRun{1, page, n, slot}), end) }
	dropOf := func(page, n uint64) []byte { return join(appendDrop(nil, 1, page, n), end) }
	deltaOf := func(slot uint32, p ...byte) []byte {
		return join(appendDelta(nil, slot, crc32.Checksum(filled(1), castagnoli), len(p)), p, end)
	}
	return map[string]struct {
		stream []byte
		says   string
	}{
		"empty":                      {nil, "early end"},
		"type 0":                     {[]byte{0, recEnd}, "unknown record type"},
		"type 6":                     {[]byte{recEnd + 1, recEnd}, "unknown record type"},
		"something after the end":    {[]byte{recEnd, recEnd}, "after the end"},
		"data in slot 0":             {dataOf(0, 1), "slot is zero"},
		"data in no slot":            {dataOf(1, 0), "number of slots is zero"},
		"data in too many slots":     {dataOf(1, maxRun+1), "number of slots: 257 exceeds 256"},
		"data beyond the limit":      {dataOf(last+1, 1), "slot: 257 exceeds 256"},
		"data across the limit":      {dataOf(last, 2), "slot: 257 exceeds 256"},
		"data in the last slots":     {dataOf(1<<32-1, 256), "exceeds 256"},
		"map of no page":             {mapOf(0, 0, 1), "number of pages is zero"},
		"map of page beyond the end": {mapOf(maxPage, 1, 1), "end of pages"},
		"map across the end":         {mapOf(maxPage-1, 2, 1), "end of pages"},
		"map that overflows":         {mapOf(1<<64-1, 2, 1), "end of pages"},
		"map to beyond the limit":    {mapOf(0, 1, last+1), "slot: 257 exceeds 256"},
		"map across the limit":       {mapOf(0, 2, last), "slot: 257 exceeds 256"},
		"map to the last slots":      {mapOf(0, 1<<32-1, 1<<32-1), "exceeds 256"},
		"map of endless zeros":       {mapOf(0, 1<<32-1, 0), "size of page tables"},
		"drop beyond the end":        {dropOf(maxPage, 1), "end of pages"},
		"drop across the end":        {dropOf(1, maxPage), "end of pages"},
		"drop of too much":           {dropOf(0, 1<<64-1), "number of pages"},
		"drop that overflows":        {dropOf(1<<64-1, 2), "end of pages"},
		"drop of nothing":            {dropOf(1, 0), "number of pages is zero"},
		"delta of slot 0":            {deltaOf(0, 0, 0), "slot is zero"},
		"delta beyond the limit":     {deltaOf(last+1, 0, 0), "slot: 257 exceeds 256"},
		"delta of an unused slot":    {deltaOf(9, 0, 0), "never stored"},
		"delta of nothing":           {deltaOf(1), "length of a patch is zero"},
		"delta too long":             {deltaOf(1, make([]byte, maxDelta+1)...), "length of a patch: 2049 exceeds 2048"},
		"delta of half a step":       {deltaOf(1, 1), "patch leaves the page"},
		"delta without its words":    {deltaOf(1, 0, 1, 1, 2, 3), "patch leaves the page"},
		"delta beyond the page":      {deltaOf(1, 255, 0, 255, 0, 2, 1, 1, 2, 3, 4, 5, 6, 7, 8), "patch leaves the page"},
		"delta far beyond the page":  {deltaOf(1, bytes.Repeat([]byte{255, 0}, 500)...), "patch leaves the page"},
		"delta to something else":    {deltaOf(1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8), "checksum"},
	}
}

func TestHostileStreams(t *testing.T) {
	start := join(appendData(nil, 1, 1), filled(1), []byte{recEnd})
	for name, tt := range hostile() {
		s := newTestStore(t, testLimit)
		s.pages.maxChunks = 10
		if err := s.Apply(bytes.NewReader(start)); err != nil {
			t.Fatal(err)
		}
		err := s.Apply(bytes.NewReader(tt.stream))
		if f := (*FormatError)(nil); !errors.As(err, &f) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want a FormatError that says %q", name, err, tt.says)
		}
		if strings.Contains(tt.says, "exceeds") && !errors.As(err, new(*LimitError)) {
			t.Errorf("%s: %v is no LimitError", name, err)
		}
		checkBounds(t, s)
	}
}

// The last slot, the last page, and a patch that reaches the page's end are within bounds.
func TestLimitsAreReached(t *testing.T) {
	const last = testLimit / PageSize
	p := make([]byte, 0, 2048)
	p = append(p, 255, 0, 255, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8)
	want := filled(9)
	copy(want[PageSize-8:], p[6:])
	s := newTestStore(t, testLimit)
	stream := join(appendData(nil, last, 1), filled(9), appendMap(nil, mapRun{-1, maxPage - 1, 1, last}),
		appendDelta(nil, last, crc32.Checksum(want, castagnoli), len(p)), p, appendDrop(nil, 1, 0, maxPage), []byte{recEnd})
	if err := s.Apply(bytes.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, PageSize)
	if err := s.ReadPage(-1, maxPage-1, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the last page is wrong: %v", err)
	}
	if s.Bytes() != testLimit {
		t.Errorf("store takes %d bytes", s.Bytes())
	}
}

// A page may be mapped by one stream while another, which was to bring the content, never came.
func TestReadOfSlotNeverStored(t *testing.T) {
	s := newTestStore(t, testLimit)
	if err := s.Apply(bytes.NewReader(join(appendMap(nil, mapRun{1, 0, 1, 5}), []byte{recEnd}))); err != nil {
		t.Fatal(err)
	}
	if err := s.ReadPage(1, 0, make([]byte, PageSize)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a slot that was never stored: %v", err)
	}
}

func TestReaderFails(t *testing.T) {
	s := newTestStore(t, testLimit)
	err := s.Apply(io.MultiReader(bytes.NewReader(appendData(nil, 1, 1)), errReader{}))
	if f := (*FormatError)(nil); !errors.Is(err, errNoRoom) || errors.As(err, &f) {
		t.Errorf("a reader that fails: %v", err)
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errNoRoom }

func TestApplyToClosedStore(t *testing.T) {
	s := newTestStore(t, testLimit)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	err := s.Apply(bytes.NewReader(join(appendData(nil, 1, 1), filled(1), []byte{recEnd})))
	if !errors.Is(err, os.ErrClosed) {
		t.Errorf("apply to a closed store: %v", err)
	}
}

// checkBounds fails when a store is larger than it may be.
func checkBounds(t *testing.T, s *Store) {
	t.Helper()
	info, err := s.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if most := int64(s.last+1) * PageSize; info.Size() > most || s.Bytes() > most-PageSize {
		t.Errorf("store has %d bytes, Bytes is %d", info.Size(), s.Bytes())
	}
	chunks := 0
	for space, m := range s.pages.spaces {
		for i, c := range m {
			chunks++
			used := 0
			for _, entry := range c.entries {
				if entry != entryNone {
					used++
				}
				if entry > s.last+1 {
					t.Errorf("space %d has an entry for slot %d", space, entry-1)
				}
			}
			if used != int(c.used) {
				t.Errorf("chunk %d of space %d counts %d, has %d", i, space, c.used, used)
			}
		}
	}
	if chunks != s.pages.chunks || chunks > s.pages.maxChunks || len(s.pages.spaces) > s.pages.maxSpaces {
		t.Errorf("%d chunks, %d counted, in %d spaces", chunks, s.pages.chunks, len(s.pages.spaces))
	}
}

// FuzzApply feeds damaged streams to a store that has something already, whole and cut into pieces: both must come to
// the same, without a panic and within the limits.
func FuzzApply(f *testing.F) {
	start := join(appendData(nil, 1, 2), filled(1), filled(2), appendMap(nil, mapRun{7, 0x400, 2, 1}), []byte{recEnd})
	first, second := sampleStreams(f)
	f.Add(first, uint8(5))
	f.Add(second, uint8(100))
	f.Add(start, uint8(0))
	for _, h := range hostile() {
		f.Add(h.stream, uint8(1))
	}
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		var errs [2]error
		var stores [2]*Store
		for i := range stores {
			s := newTestStore(t, testLimit)
			s.pages.maxChunks, s.pages.maxSpaces = 20, 4
			if err := s.Apply(bytes.NewReader(start)); err != nil {
				t.Fatal(err)
			}
			stores[i] = s
		}
		errs[0] = stores[0].Apply(bytes.NewReader(stream))
		errs[1] = stores[1].Apply(&trickle{bytes.NewReader(stream), func() int { return int(cut) + 1 }})
		if (errs[0] == nil) != (errs[1] == nil) || errs[0] != nil && errs[0].Error() != errs[1].Error() {
			t.Errorf("whole: %v, in pieces: %v", errs[0], errs[1])
		}
		if f := (*FormatError)(nil); errs[0] != nil && !errors.As(errs[0], &f) {
			t.Errorf("not a FormatError: %v", errs[0])
		}
		for _, s := range stores {
			checkBounds(t, s)
		}
		checkSame(t, stores[0], stores[1])
	})
}

// checkSame fails when two stores differ.
func checkSame(t *testing.T, a, b *Store) {
	t.Helper()
	if !reflect.DeepEqual(a.pages.spaces, b.pages.spaces) {
		t.Error("page tables differ")
	}
	p, q := make([]byte, PageSize), make([]byte, PageSize)
	for slot := uint32(1); slot <= a.last; slot++ {
		errA, errB := a.readSlot(slot, p), b.readSlot(slot, q)
		if (errA == nil) != (errB == nil) {
			t.Errorf("slot %d: %v and %v", slot, errA, errB)
		}
		if errA == nil && !bytes.Equal(p, q) {
			t.Errorf("slot %d differs", slot)
		}
	}
}
