package pagemap

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// eagerBuffer is how many bytes are written at once.
const eagerBuffer = 1 << 20

// BuildEager makes the memory of one task in the image set in dir complete, so that CRIU restores all of it by itself:
// pages whose content was left in the task become present, with the content that page puts into p, a page long. It is
// called for each of them, ascending; its error ends the work. What the set held already stays, and so do references to an
// earlier set.
//
// The task's pages are written into a new file, which takes the place of the old one when it is complete: for that long
// both need space. After an error the set is as it was, unless the very last step failed, the writing of the pagemap itself.
func BuildEager(dir string, vpid int, page func(addr uint64, p []byte) error) error {
	path := TaskPath(dir, vpid)
	f, err := ReadFile(path)
	if err != nil {
		return err
	}
	if len(Select(f.Entries, Entry.InPlace)) == 0 {
		return nil
	}
	if err := f.fillPages(filepath.Join(dir, f.PagesName()), page); err != nil {
		return fmt.Errorf("complete the memory of task %d: %w", vpid, err)
	}
	for i := range f.Entries {
		if f.Entries[i].InPlace() {
			f.Entries[i].Flags |= Present
		}
	}
	return f.WriteFile(path)
}

// fillPages replaces the file of present pages at path by one that has the missing pages as well.
func (f *File) fillPages(path string, page func(uint64, []byte) error) (err error) {
	old, err := f.openPages(path)
	if err != nil {
		return err
	}
	defer old.Close()
	next := path + ".new"
	w, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make pages file: %w", err)
	}
	defer func() {
		w.Close() // a second time, when all went well: no harm
		if err != nil {
			os.Remove(next)
		}
	}()
	if err := f.merge(w, old, page); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write pages file: %w", err)
	}
	if err := os.Rename(next, path); err != nil {
		return fmt.Errorf("replace pages file: %w", err)
	}
	return nil
}

// openPages opens the present pages and checks that the file has exactly those that the entries speak of.
func (f *File) openPages(path string) (*os.File, error) {
	old, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pages file: %w", err)
	}
	info, err := old.Stat()
	if err != nil {
		old.Close()
		return nil, fmt.Errorf("open pages file: %w", err)
	}
	// entries do not overlap and lie below maxAddr, so that this cannot overflow
	if want := Count(Select(f.Entries, Entry.Held)) * PageSize; uint64(info.Size()) != want {
		old.Close()
		return nil, fmt.Errorf("%w: %s has %d bytes, its pagemap speaks of %d", ErrMalformed, filepath.Base(path), info.Size(), want)
	}
	return old, nil
}

// merge writes all pages that are held or missing, in the order of the entries.
func (f *File) merge(w io.Writer, old io.Reader, page func(uint64, []byte) error) error {
	bw := bufio.NewWriterSize(w, eagerBuffer)
	br := bufio.NewReaderSize(old, eagerBuffer)
	buf := make([]byte, PageSize)
	for _, e := range f.Entries {
		switch {
		case e.InPlace():
			for addr := e.Addr; addr < e.End(); addr += PageSize {
				clear(buf)
				if err := page(addr, buf); err != nil {
					return fmt.Errorf("page at %#x: %w", addr, err)
				}
				if _, err := bw.Write(buf); err != nil {
					return fmt.Errorf("write pages file: %w", err)
				}
			}
		case e.Held():
			if err := copyPages(bw, br, e, buf); err != nil {
				return fmt.Errorf("copy pages at %#x: %w", e.Addr, err)
			}
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write pages file: %w", err)
	}
	return nil
}

func copyPages(w io.Writer, r io.Reader, e Entry, buf []byte) error {
	for range e.Pages {
		if _, err := io.ReadFull(r, buf); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // the size was checked: somebody shortened the file meanwhile
			}
			return err
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}
