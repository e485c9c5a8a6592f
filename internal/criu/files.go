package criu

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
)

// The stream of small files of an image set: magic, then for each file a u16 name length, the name, a u64 size and the
// contents, then a u16 zero and a u32 with the number of files. Integers are big-endian.
const (
	filesMagic  = "MGIMGS01"
	maxFileName = 128
	maxFiles    = 1 << 16
)

// imageName is what a file of an image set may be called: CRIU's images, and what runc puts beside them.
var imageName = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9_+-]*(\.[A-Za-z0-9_+-]+)*$`)

// ErrImageSet is a stream of image files that is not as it has to be.
var ErrImageSet = errors.New("malformed image set")

// CheckImageName says whether a peer's name for a file of an image set is harmless.
func CheckImageName(name string) error {
	if len(name) > maxFileName || !imageName.MatchString(name) {
		return fmt.Errorf("%w: file name %q", ErrImageSet, name)
	}
	return nil
}

// WriteFiles sends all files of dir but those that Follow sends, and returns their number and bytes.
func WriteFiles(w io.Writer, dir string) (files int, bytes int64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("list the image set: %w", err)
	}
	bw := bufio.NewWriterSize(w, 256<<10)
	bw.WriteString(filesMagic) // errors stick and show at Flush
	for _, e := range entries {
		if pagesFile.MatchString(e.Name()) {
			continue
		}
		if !e.Type().IsRegular() {
			return files, bytes, fmt.Errorf("%w: %s is not a regular file", ErrImageSet, e.Name())
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return files, bytes, fmt.Errorf("read the image set: %w", err)
		}
		if err := CheckImageName(e.Name()); err != nil {
			return files, bytes, err
		}
		head := binary.BigEndian.AppendUint16(nil, uint16(len(e.Name())))
		head = append(head, e.Name()...)
		bw.Write(binary.BigEndian.AppendUint64(head, uint64(len(b))))
		bw.Write(b)
		files++
		bytes += int64(len(b))
	}
	bw.Write(binary.BigEndian.AppendUint32([]byte{0, 0}, uint32(files)))
	if err := bw.Flush(); err != nil {
		return files, bytes, fmt.Errorf("send the image set: %w", err)
	}
	return files, bytes, nil
}

// ReadFiles receives what WriteFiles sent into dir, which must not hold any of the files. At most limit bytes of
// contents are taken. r must end where the stream does.
func ReadFiles(r io.Reader, dir string, limit int64) (files int, err error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic := make([]byte, len(filesMagic))
	if _, err := io.ReadFull(br, magic); err != nil || string(magic) != filesMagic {
		return 0, fmt.Errorf("%w: no magic (%w)", ErrImageSet, orEOF(err))
	}
	for {
		name, err := readName(br)
		if err != nil {
			return files, err
		}
		if name == "" {
			return files, readEnd(br, files)
		}
		if files++; files > maxFiles {
			return files, fmt.Errorf("%w: more than %d files", ErrImageSet, maxFiles)
		}
		n, err := readFile(br, filepath.Join(dir, name), limit)
		if err != nil {
			return files, err
		}
		limit -= n
	}
}

func readName(r io.Reader) (string, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	l := binary.BigEndian.Uint16(n[:])
	if l == 0 {
		return "", nil
	}
	if l > maxFileName {
		return "", fmt.Errorf("%w: a name of %d bytes", ErrImageSet, l)
	}
	b := make([]byte, l)
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	return string(b), CheckImageName(string(b))
}

func readFile(r io.Reader, path string, limit int64) (int64, error) {
	var n [8]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	size := binary.BigEndian.Uint64(n[:])
	if size > uint64(max(limit, 0)) {
		return 0, fmt.Errorf("%w: %s of %d bytes is over the limit", ErrImageSet, filepath.Base(path), size)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("store the image set: %w", err)
	}
	if _, err := io.CopyN(f, r, int64(size)); err != nil {
		f.Close()
		return 0, fmt.Errorf("store %s: %w", filepath.Base(path), err)
	}
	if err := f.Close(); err != nil {
		return 0, fmt.Errorf("store %s: %w", filepath.Base(path), err)
	}
	return int64(size), nil
}

func readEnd(r io.Reader, files int) error {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return fmt.Errorf("%w: %w", ErrImageSet, err)
	}
	if got := binary.BigEndian.Uint32(n[:]); int(got) != files {
		return fmt.Errorf("%w: %d files, %d announced", ErrImageSet, files, got)
	}
	if _, err := io.ReadFull(r, n[:1]); err != io.EOF {
		return fmt.Errorf("%w: bytes after the end", ErrImageSet)
	}
	return nil
}

func orEOF(err error) error {
	if err == nil {
		return errors.New("other bytes there")
	}
	return err
}
