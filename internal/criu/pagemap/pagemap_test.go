package pagemap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/encoding/protowire"
)

// image puts magic numbers and lengths around messages.
func image(messages ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x54564319)
	b = binary.LittleEndian.AppendUint32(b, 0x56084025)
	for _, m := range messages {
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(m))), m...)
	}
	return b
}

// message encodes pairs of field and value.
func message(pairs ...uint64) []byte {
	var m []byte
	for i := 0; i < len(pairs); i += 2 {
		m = protowire.AppendVarint(protowire.AppendTag(m, protowire.Number(pairs[i]), protowire.VarintType), pairs[i+1])
	}
	return m
}

var head = message(1, 7)

func TestReadsWhatEachVersionOfCRIUWrites(t *testing.T) {
	for name, c := range map[string]struct {
		entry []byte
		want  Entry
	}{
		"4.2":                      {message(1, 0x1000, 2, 0, 4, 2, 5, 3), Entry{0x1000, 3, Lazy}},
		"up to 4.1":                {message(1, 0x1000, 2, 3, 4, 6), Entry{0x1000, 3, Lazy | Present}},
		"many pages":               {message(1, 0x1000, 2, 0, 4, 4, 5, 1<<33), Entry{0x1000, 1 << 33, Present}},
		"no flags":                 {message(1, 0x1000, 2, 1), Entry{0x1000, 1, Present}},
		"no flags, in the parent":  {message(1, 0x1000, 2, 1, 3, 1), Entry{0x1000, 1, Parent}},
		"flags, and in the parent": {message(1, 0x1000, 2, 1, 3, 1, 4, 2), Entry{0x1000, 1, Lazy | Parent}},
		"not in the parent":        {message(1, 0x1000, 2, 1, 3, 0), Entry{0x1000, 1, Present}},
		"a field of the future":    {append(message(1, 0x1000, 2, 1, 4, 4), protowire.AppendString(protowire.AppendTag(nil, 9, protowire.BytesType), "x")...), Entry{0x1000, 1, Present}},
	} {
		f, err := Read(bytes.NewReader(image(head, c.entry)))
		if err != nil || f.PagesID != 7 || !slices.Equal(f.Entries, []Entry{c.want}) {
			t.Errorf("%s: got %+v, %v, want %+v", name, f, err, c.want)
		}
	}
}

func TestRefusesMalformedImages(t *testing.T) {
	ok := message(1, 0x2000, 2, 1, 4, 4)
	for name, b := range map[string][]byte{
		"empty":             nil,
		"other magic":       append([]byte{1}, image(head)[1:]...),
		"no head":           image(),
		"head without id":   image(message()),
		"huge id":           image(message(1, 1<<32)),
		"cut length":        image(head, ok)[:len(image(head))+2],
		"cut entry":         image(head, ok)[:len(image(head, ok))-1],
		"long record":       image(head, make([]byte, 257)),
		"huge record":       append(image(head), 0xff, 0xff, 0xff, 0xff),
		"empty entry":       image(head, nil),
		"no address":        image(head, message(2, 1)),
		"no count":          image(head, message(1, 0x1000, 5, 1)),
		"old count of 2^32": image(head, message(1, 0x1000, 2, 1<<32)),
		"nothing":           image(head, message(1, 0x1000, 2, 0)),
		"between pages":     image(head, message(1, 0x1001, 2, 1)),
		"high address":      image(head, message(1, 1<<57, 2, 1)),
		"beyond the end":    image(head, message(1, 0x1000, 2, 0, 5, 1<<45)),
		"overflow":          image(head, message(1, 0x1000, 2, 0, 5, 1<<52)),
		"more overflow":     image(head, message(1, 0x1000, 2, 0, 5, 1<<64-1)),
		"huge flags":        image(head, message(1, 0x1000, 2, 1, 4, 1<<32)),
		"descending":        image(head, ok, message(1, 0x1000, 2, 1)),
		"overlap":           image(head, message(1, 0x1000, 2, 2), ok),
		"twice":             image(head, ok, ok),
		"no protobuf":       image(head, []byte{0xff}),
		"field 0":           image(head, []byte{0, 1}),
		"address as bytes":  image(head, protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "x")),
		"endless varint":    image(head, append([]byte{8}, bytes.Repeat([]byte{0x80}, 20)...)),
	} {
		if f, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrMalformed) || f != nil {
			t.Errorf("%s: got %+v, %v", name, f, err)
		}
	}
	disk := errors.New("disk")
	if _, err := Read(iotest.ErrReader(disk)); !errors.Is(err, disk) || errors.Is(err, ErrMalformed) {
		t.Errorf("an error of the reader became %v", err)
	}
}

func sample() *File {
	return &File{PagesID: 3, Entries: []Entry{
		{0x1000, 2, Lazy}, {0x3000, 1, Present}, {0x5000, 1, Lazy | Present}, {0x6000, 1, Parent}, {0x7000, 1, Lazy | Parent},
		{0x10000, 3, Lazy}, {0x7fff_0000_0000, 1, Present},
	}}
}

func TestWhatIsWrittenCanBeRead(t *testing.T) {
	for name, f := range map[string]*File{
		"mixed": sample(), "no entries": {PagesID: 1}, "2^33 pages": {Entries: []Entry{{0, 1 << 33, Present}}},
	} {
		var b bytes.Buffer
		if err := f.Write(&b); err != nil {
			t.Fatal(err)
		}
		got, err := Read(iotest.OneByteReader(&b))
		if err != nil || !reflect.DeepEqual(got, f) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	if err := sample().WriteFile(filepath.Join(t.TempDir(), "no", "such")); err == nil {
		t.Error("wrote into a directory that is not there")
	}
}

// Older versions of CRIU know only the older field.
func TestTheOlderCountIsWrittenToo(t *testing.T) {
	var b bytes.Buffer
	if err := (&File{PagesID: 7, Entries: []Entry{{0x1000, 3, Lazy}}}).Write(&b); err != nil {
		t.Fatal(err)
	}
	if want := image(head, message(1, 0x1000, 2, 3, 4, 2, 5, 3)); !bytes.Equal(b.Bytes(), want) {
		t.Errorf("got %x, want %x", b.Bytes(), want)
	}
}

func TestSelections(t *testing.T) {
	f := sample()
	if got := Select(f.Entries, Entry.InPlace); Count(got) != 5 || got[1].Addr != 0x10000 {
		t.Errorf("left: %+v", got)
	}
	if got := Select(f.Entries, Entry.Held); Count(got) != 3 || got[1].Addr != 0x5000 {
		t.Errorf("held: %+v", got)
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{
		"pagemap-10.img", "pagemap-2.img", "pagemap-shmem-9223372036854775807.img", "pagemap-shmem-3.img", // these count
		"pagemap-02.img", "pagemap-x.img", "pagemap--1.img", "pagemap-2.img.new", "pagemap-4294967296.img", "pagemap-shmem-.img", "pages-1.img",
	} {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := List(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := func(n string) string { return filepath.Join(dir, n) }
	want := []Image{
		{2, false, path("pagemap-2.img")}, {10, false, path("pagemap-10.img")},
		{3, true, path("pagemap-shmem-3.img")}, {1<<63 - 1, true, path("pagemap-shmem-9223372036854775807.img")},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if p := TaskPath(dir, 2); p != got[0].Path {
		t.Errorf("task 2 has %s", p)
	}
	if _, err := List(path("nowhere")); err == nil {
		t.Error("listed a directory that is not there")
	}
}

// content is a page that tells its address and where it came from.
func content(addr uint64, from byte) []byte {
	p := bytes.Repeat([]byte{from}, PageSize)
	binary.LittleEndian.PutUint64(p, addr)
	return p
}

// eagerSet makes an image set of sample with its held pages, which take part of 4.
func eagerSet(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	f := sample()
	var pages []byte
	for _, e := range Select(f.Entries, Entry.Held) {
		pages = append(pages, content(e.Addr, 'h')...)
	}
	if err := errors.Join(f.WriteFile(TaskPath(dir, 4)), os.WriteFile(filepath.Join(dir, "pages-3.img"), pages, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestBuildEager(t *testing.T) {
	dir := eagerSet(t)
	var asked []uint64
	err := BuildEager(dir, 4, func(addr uint64, p []byte) error {
		asked = append(asked, addr)
		copy(p, content(addr, 'm'))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint64{0x1000, 0x2000, 0x10000, 0x11000, 0x12000}; !slices.Equal(asked, want) {
		t.Errorf("asked for %x, want %x", asked, want)
	}
	f, err := ReadFile(TaskPath(dir, 4))
	if err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Entries[0].Flags, want.Entries[5].Flags = Lazy|Present, Lazy|Present
	if !reflect.DeepEqual(f, want) {
		t.Errorf("got %+v", f)
	}
	got, err := os.ReadFile(filepath.Join(dir, "pages-3.img"))
	if err != nil {
		t.Fatal(err)
	}
	var pages []byte
	for _, p := range []struct {
		addr uint64
		from byte
	}{{0x1000, 'm'}, {0x2000, 'm'}, {0x3000, 'h'}, {0x5000, 'h'}, {0x10000, 'm'}, {0x11000, 'm'}, {0x12000, 'm'}, {0x7fff_0000_0000, 'h'}} {
		pages = append(pages, content(p.addr, p.from)...)
	}
	if !bytes.Equal(got, pages) {
		t.Error("the pages are not as they should be")
	}
	// a set that is complete stays as it is
	err = BuildEager(dir, 4, func(addr uint64, _ []byte) error { return errors.New("asked again") })
	if err != nil {
		t.Error(err)
	}
}

func TestBuildEagerFails(t *testing.T) {
	lost := errors.New("lost")
	for name, c := range map[string]struct {
		spoil func(dir string) error
		page  error
		want  string
	}{
		"a page is lost":     {func(string) error { return nil }, lost, "page at 0x1000: lost"},
		"no pagemap":         {func(dir string) error { return os.Remove(TaskPath(dir, 4)) }, nil, "no such file"},
		"no pages":           {func(dir string) error { return os.Remove(filepath.Join(dir, "pages-3.img")) }, nil, "no such file"},
		"a page too few":     {func(dir string) error { return os.Truncate(filepath.Join(dir, "pages-3.img"), 2*PageSize) }, nil, "has 8192 bytes, its pagemap speaks of 12288"},
		"malformed pagemap":  {func(dir string) error { return os.Truncate(TaskPath(dir, 4), 9) }, nil, "cut short"},
		"no room for a file": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "pages-3.img.new"), 0o700) }, nil, "is a directory"},
	} {
		dir := eagerSet(t)
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, dir)
		err := BuildEager(dir, 4, func(uint64, []byte) error { return c.page })
		if err == nil || !strings.Contains(err.Error(), c.want) || c.page != nil && !errors.Is(err, c.page) {
			t.Errorf("%s: got %v", name, err)
		}
		if after := snapshot(t, dir); name != "no room for a file" && !reflect.DeepEqual(before, after) {
			t.Errorf("%s: the set changed", name)
		}
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		m[e.Name()] = string(b)
	}
	return m
}

// What comes out of Read can be written and read again, and its numbers are safe to compute with.
func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := sample().Write(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(image(head))
	f.Add(image(head, message(1, 0x1000, 2, 0, 4, 2, 5, 3)))
	f.Add(image(head, message(1, 0x1000, 2, 1, 3, 1)))
	f.Add(image(head, message(1, 0x1000, 2, 0, 5, 1<<64-1)))
	f.Add(append(image(head), 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v", err)
			}
			return
		}
		var last uint64
		for _, e := range file.Entries {
			if e.Addr < last || e.End() <= e.Addr || e.Addr%PageSize != 0 {
				t.Fatalf("entry %+v after %#x", e, last)
			}
			last = e.End()
		}
		var out bytes.Buffer
		if err := file.Write(&out); err != nil {
			t.Fatal(err)
		}
		again, err := Read(&out)
		if err != nil || !reflect.DeepEqual(again, file) {
			t.Fatalf("read again: %+v, %v, want %+v", again, err, file)
		}
	})
}
