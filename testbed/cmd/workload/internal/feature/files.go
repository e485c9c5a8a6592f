package feature

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

const chunk = 64 << 10

// deleted is an open file without a name, with a second descriptor that has an offset of its own.
type deleted struct {
	file, reader *os.File
	path         string
	chunks       int
	versions     []uint64
}

func newDeleted(o Options) (m machine, err error) {
	d := &deleted{path: filepath.Join(o.Dir, "deleted"), chunks: max(o.MiB<<20/chunk, 1)}
	d.versions = make([]uint64, d.chunks)
	if d.file, err = create(d.path, nil); err != nil {
		return nil, err
	}
	for i := range d.chunks {
		if err := d.write(i); err != nil {
			return nil, err
		}
	}
	if d.reader, err = os.Open(d.path); err != nil {
		return nil, err
	}
	return d, os.Remove(d.path)
}

func (d *deleted) content(i int) []byte { return pattern(uint64(i)<<32|d.versions[i], chunk) }

func (d *deleted) write(i int) error {
	_, err := d.file.WriteAt(d.content(i), int64(i)*chunk)
	return err
}

// step reads the next chunk through the offset and writes another version of it.
func (d *deleted) step(n uint64) error {
	i := int((n - 1) % uint64(d.chunks))
	if i == 0 {
		if _, err := d.reader.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	got := make([]byte, chunk)
	if _, err := io.ReadFull(d.reader, got); err != nil {
		return damage("read chunk %d: %v", i, err)
	}
	if !bytes.Equal(got, d.content(i)) {
		return damage("chunk %d is wrong", i)
	}
	if _, err := os.Lstat(d.path); !errors.Is(err, fs.ErrNotExist) {
		return damage("the deleted file has its name again: %v", err)
	}
	if info, err := d.file.Stat(); err != nil || info.Size() != int64(d.chunks)*chunk {
		return damage("the file's size has changed: %v", err)
	}
	d.versions[i] = n
	return d.write(i)
}

// files are many open files, each with an offset of its own. No process may have all of them: the others have some each.
type files struct {
	own    *numbered
	others []*partner
}

const filesEach = 800

func newFiles(o Options) (machine, error) {
	count := or(o.Count, 5000)
	own, err := openNumbered(o.Dir, 0, min(count, filesEach))
	if err != nil {
		return nil, err
	}
	f := &files{own: own}
	for from := filesEach; from < count; from += filesEach {
		p, err := startPartner("files", nil, o.Dir, strconv.Itoa(from), strconv.Itoa(min(count, from+filesEach)))
		if err != nil {
			return nil, err
		}
		f.others = append(f.others, p)
	}
	return f, nil
}

// step reads a number of every file.
func (f *files) step(uint64) error {
	for _, p := range f.others {
		if err := p.expect("read", "right"); err != nil {
			return err
		}
	}
	return f.own.next()
}

func filesPartner(args []string) (func(string) string, error) {
	from, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	to, err := strconv.Atoi(args[2])
	if err != nil {
		return nil, err
	}
	own, err := openNumbered(args[0], from, to)
	return func(string) string {
		if err := own.next(); err != nil {
			return err.Error()
		}
		return "right"
	}, err
}

// numbered are open files that hold numbers, of which a different count is read of each.
type numbered struct {
	from int // number of the first file
	open []*os.File
	read []int
}

const numbersInFile = 64

func openNumbered(dir string, from, to int) (*numbered, error) {
	f := &numbered{from: from, read: make([]int, to-from)}
	for i := from; i < to; i++ {
		path := filepath.Join(dir, fmt.Sprintf("file-%d", i))
		var content []byte
		for n := range numbersInFile {
			content = binary.BigEndian.AppendUint64(content, uint64(i)<<16|uint64(n))
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return nil, err
		}
		opened, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		f.open = append(f.open, opened)
		for range i % numbersInFile {
			if err := f.nextOf(i - from); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// nextOf reads the next number of a file, from its beginning again after the last one.
func (f *numbered) nextOf(i int) error {
	if f.read[i] == numbersInFile {
		if _, err := f.open[i].Seek(0, io.SeekStart); err != nil {
			return err
		}
		f.read[i] = 0
	}
	var b [8]byte
	if _, err := io.ReadFull(f.open[i], b[:]); err != nil {
		return damage("file %d: %v", f.from+i, err)
	}
	if got, want := binary.BigEndian.Uint64(b[:]), uint64(f.from+i)<<16|uint64(f.read[i]); got != want {
		return damage("file %d has %x at its offset and not %x", f.from+i, got, want)
	}
	f.read[i]++
	return nil
}

func (f *numbered) next() error {
	for i := range f.open {
		if err := f.nextOf(i); err != nil {
			return err
		}
	}
	return nil
}
