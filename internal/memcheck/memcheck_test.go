package memcheck

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"migrate/internal/track"
)

const p = track.PageSize

// pages are memory for a test; those that are not there are zeros.
type pages map[uint64]byte

func (m pages) Read(addr uint64, b []byte) error {
	for off := 0; off < len(b); off += p {
		for i := range p {
			b[off+i] = m[addr/p+uint64(off/p)]
		}
	}
	return nil
}

func (m pages) Data() (list []track.Range, err error) {
	for page := range uint64(2000) {
		if _, ok := m[page]; ok {
			list = append(list, track.Range{Start: page * p, End: (page + 1) * p})
		}
	}
	return list, nil
}

// written is the check of two spaces.
func written(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	process, shared := pages{}, pages{1: 1, 2: 2, 7: 7}
	for page := range uint64(600) {
		process[page] = byte(page)
	}
	n, err := Write(&b, []Space{
		{ID: 5, Memory: process, Ranges: []track.Range{{Start: 0, End: 600 * p}}},
		{ID: -9, Memory: shared, Ranges: []track.Range{{Start: p, End: 3 * p}, {Start: 7 * p, End: 8 * p}}},
	})
	if err != nil || n != 603 {
		t.Fatal(n, err)
	}
	return b.Bytes()
}

func TestCompare(t *testing.T) {
	for name, c := range map[string]struct {
		change func(process, shared pages)
		differ int64
		first  string
	}{
		"equal":                    {func(_, _ pages) {}, 0, ""},
		"a page of a process":      {func(process, _ pages) { process[300] = 0 }, 1, "process 5, page 0x12c000"},
		"a shared page":            {func(_, shared pages) { shared[2] = 3 }, 1, "shared memory, space -9, page 0x2000"},
		"a shared page too many":   {func(_, shared pages) { shared[3] = 1 }, 1, "shared memory, space -9, page 0x3000"},
		"zeros more do no harm":    {func(_, shared pages) { shared[3] = 0 }, 0, ""},
		"processes may have more":  {func(process, _ pages) { process[900] = 1 }, 0, ""},
		"a shared page is missing": {func(_, shared pages) { delete(shared, 7) }, 1, "shared memory, space -9, page 0x7000"},
	} {
		process, shared := pages{}, pages{1: 1, 2: 2, 7: 7}
		for page := range uint64(600) {
			process[page] = byte(page)
		}
		c.change(process, shared)
		res, err := Compare(bytes.NewReader(written(t)), func(space int32) (Memory, error) {
			if space == 5 {
				return known{process}, nil
			}
			return shared, nil
		})
		if err != nil || res.Compared != 603 || res.Differing != c.differ || res.First != c.first {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
}

// bytesAt are memory for a test in which single bytes are set.
type bytesAt map[uint64]byte

func (m bytesAt) Read(addr uint64, b []byte) error {
	for i := range b {
		b[i] = m[addr+uint64(i)]
	}
	return nil
}

func (bytesAt) Data() ([]track.Range, error) { return nil, nil }

// TestWithout checks that nothing but the bytes that are left out may differ.
func TestWithout(t *testing.T) {
	cut := []track.Range{{Start: 3*p + 96, End: 3*p + 104}, {Start: 3*p + 116, End: 3*p + 124}, {Start: 300*p - 4, End: 300*p + 4}}
	var b bytes.Buffer
	if _, err := Write(&b, []Space{{ID: 5, Memory: Without{bytesAt{}, cut}, Ranges: []track.Range{{Start: 2 * p, End: 400 * p}}}}); err != nil {
		t.Fatal(err)
	}
	for addr, differ := range map[uint64]int64{
		3*p + 95: 1, 3*p + 96: 0, 3*p + 103: 0, 3*p + 104: 1, 3*p + 115: 1, 3*p + 116: 0, 3*p + 123: 0, 3*p + 124: 1,
		300*p - 5: 1, 300*p - 4: 0, 300*p - 1: 0, 300 * p: 0, 300*p + 3: 0, 300*p + 4: 1, 4*p + 96: 1, 2*p + 96: 1,
	} {
		res, err := Compare(bytes.NewReader(b.Bytes()), func(int32) (Memory, error) { return Without{bytesAt{addr: 1}, cut}, nil })
		if err != nil || res.Compared != 398 || res.Differing != differ {
			t.Errorf("byte %#x changed: %+v, %v", addr, res, err)
		}
	}
}

// known is memory of which it is not known what else there is.
type known struct{ pages }

func (known) Data() ([]track.Range, error) { return nil, nil }

func TestCompareRefuses(t *testing.T) {
	good := written(t)
	nothing := func(int32) (Memory, error) { return nil, errors.New("no such process") }
	for name, b := range map[string][]byte{"nothing": nil, "no magic": append([]byte("MGCHECK0"), good[8:]...), "cut off": good[:len(good)-1], "longer": append(bytes.Clone(good), 0)} {
		_, err := Compare(bytes.NewReader(b), func(int32) (Memory, error) { return pages{}, nil })
		if !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Compare(bytes.NewReader(good), nothing); err == nil || !strings.Contains(err.Error(), "no such process") {
		t.Error(err)
	}
	if s := fmt.Sprint(Process(1).Data()); s != "[] <nil>" {
		t.Error(s)
	}
}
