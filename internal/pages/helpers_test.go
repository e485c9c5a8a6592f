package pages

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

const testLimit = 1 << 20 // bytes: 256 slots

// storeDir is on a tmpfs where there is one, as stores are in use.
func storeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "pages-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newTestStore(t testing.TB, limit int64) *Store {
	t.Helper()
	s, err := NewStore(filepath.Join(storeDir(t), "store"), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// page makes a page that is like no other of another seed.
func page(seed uint64) []byte {
	p := make([]byte, PageSize)
	r := rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < PageSize; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], r.Uint64())
	}
	return p
}

func join(ps ...[]byte) []byte { return bytes.Join(ps, nil) }

// link is a table and a store that mirror each other.
type link struct {
	t     testing.TB
	table *Table
	store *Store
}

func newLink(t testing.TB, limit, cache int64) *link {
	return &link{t: t, table: NewTable(limit, cache), store: newTestStore(t, limit)}
}

// round sends one stream, applies it, and returns it.
func (l *link) round(send func(e *Encoder) error) []byte {
	l.t.Helper()
	var b bytes.Buffer
	l.table.BeginRound()
	e := NewEncoder(l.table, &b)
	if err := send(e); err != nil {
		l.t.Fatal(err)
	}
	if err := e.Close(); err != nil {
		l.t.Fatal(err)
	}
	stream := bytes.Clone(b.Bytes())
	if err := l.store.Apply(&b); err != nil {
		l.t.Fatal(err)
	}
	return stream
}

// pages is a round that sends pages of one space.
func (l *link) pages(space int32, first uint64, ps ...[]byte) []byte {
	l.t.Helper()
	return l.round(func(e *Encoder) error { return e.Pages(space, first, join(ps...)) })
}

// want checks a page at both sides; nil means that nothing must be known.
func (l *link) want(space int32, at uint64, content []byte) {
	l.t.Helper()
	if err := l.check(space, at, content); err != nil {
		l.t.Error(err)
	}
}

func (l *link) check(space int32, at uint64, content []byte) error {
	if has := l.table.Has(space, at); has != (content != nil) {
		return fmt.Errorf("space %d page %#x: table has it: %v", space, at, has)
	}
	got := make([]byte, PageSize)
	err := l.store.ReadPage(space, at, got)
	switch {
	case content == nil && !errors.Is(err, ErrUnknown):
		return fmt.Errorf("space %d page %#x: store should not know it: %v", space, at, err)
	case content == nil:
		return nil
	case err != nil:
		return err
	case !bytes.Equal(got, content):
		return fmt.Errorf("space %d page %#x: store has other content", space, at)
	}
	return nil
}

// summary lists the records of a stream in short, and fails for streams that are not whole.
func summary(t testing.TB, stream []byte) []string {
	t.Helper()
	var out []string
	for len(stream) > 0 {
		u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(stream[at:]) }
		u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(stream[at:]) }
		n := 0
		switch stream[0] {
		case recData:
			count := binary.LittleEndian.Uint16(stream[5:])
			out = append(out, fmt.Sprintf("data %d+%d", u32(1), count))
			n = dataSize + int(count)*PageSize
		case recMap:
			out = append(out, fmt.Sprintf("map %d:%#x+%d to %d", int32(u32(1)), u64(5), u32(13), u32(17)))
			n = mapSize
		case recDrop:
			out = append(out, fmt.Sprintf("drop %d:%#x+%d", int32(u32(1)), u64(5), u64(13)))
			n = dropSize
		case recDelta:
			size := binary.LittleEndian.Uint16(stream[9:])
			out = append(out, fmt.Sprintf("delta %d", u32(1)))
			n = deltaSize + int(size)
		case recEnd:
			out = append(out, "end")
			n = endSize
		}
		if n == 0 || n > len(stream) {
			t.Fatalf("stream is broken after %v", out)
		}
		stream = stream[n:]
	}
	return out
}

// trickle hands out a reader's content in small pieces of changing size, and is no io.WriterTo.
type trickle struct {
	r    io.Reader
	size func() int
}

func (r *trickle) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), r.size())]) }
