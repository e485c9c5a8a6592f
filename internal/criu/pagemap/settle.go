package pagemap

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Range is a run of pages in bytes, half open.
type Range struct{ Start, End uint64 }

// Settle makes the memory of one task in the image set in dir what a dump should have left, whose pages files hold nothing and whose earlier
// set has no content either: references to that set in the ranges of later, which ascend, are noted as left in the task, and so is what the dump
// itself left there. All others become present, with the content that page puts into p; what is present is not left to come later.
// After an error the set may be of no use.
func Settle(dir string, vpid int, later []Range, page func(addr uint64, p []byte) error) error {
	path := TaskPath(dir, vpid)
	f, err := ReadFile(path)
	if err != nil {
		return err
	}
	f.Entries = settle(f.Entries, later)
	return f.complete(path, page)
}

// settle splits references to the earlier set into what is left to come later and what has to be there.
func settle(entries []Entry, later []Range) []Entry {
	var out []Entry
	add := func(start, end uint64, flags Flags) {
		if start < end {
			out = append(out, Entry{Addr: start, Pages: (end - start) / PageSize, Flags: flags})
		}
	}
	for _, e := range entries {
		if !e.Flags.Has(Parent) {
			if e.Held() {
				e.Flags &^= Lazy // CRIU marks what could come later also when it is here, and would then leave it to others
			}
			out = append(out, e)
			continue
		}
		for len(later) > 0 && later[0].End <= e.Addr {
			later = later[1:]
		}
		at := e.Addr
		for _, r := range later {
			if r.Start >= e.End() {
				break
			}
			add(at, max(r.Start, at), Present)
			at = max(r.Start, at)
			add(at, min(r.End, e.End()), Lazy)
			at = min(r.End, e.End())
		}
		add(at, e.End(), Present)
	}
	return out
}

// Leave notes that the content of shared memory is in no image set, whatever the image says of its pages: it comes by other ways.
func Leave(m Image) error {
	f, err := ReadFile(m.Path)
	if err != nil {
		return err
	}
	for i := range f.Entries {
		f.Entries[i].Flags = Lazy
	}
	return f.complete(m.Path, nil)
}

// Keep makes shared memory in an image set consist of the pages of keep, which ascend, with the content that page puts into p. To CRIU
// all others are zeros.
func Keep(m Image, keep []Range, page func(off uint64, p []byte) error) error {
	f, err := ReadFile(m.Path)
	if err != nil {
		return err
	}
	f.Entries = nil
	for _, r := range keep {
		f.Entries = append(f.Entries, Entry{Addr: r.Start, Pages: (r.End - r.Start) / PageSize, Flags: Present})
	}
	return f.complete(m.Path, page)
}

// complete writes the pagemap at path, and its pages file anew with the pages that are present.
func (f *File) complete(path string, page func(addr uint64, p []byte) error) (err error) {
	pages := filepath.Join(filepath.Dir(path), f.PagesName())
	// what is there may be a link, which is not to be followed
	if err := os.Remove(pages); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replace pages file: %w", err)
	}
	w, err := os.OpenFile(pages, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make pages file: %w", err)
	}
	defer func() {
		if cerr := w.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("write pages file: %w", cerr)
		}
	}()
	bw := bufio.NewWriterSize(w, eagerBuffer)
	buf := make([]byte, PageSize)
	for _, e := range Select(f.Entries, Entry.Held) {
		for addr := e.Addr; addr < e.End(); addr += PageSize {
			if err := page(addr, buf); err != nil {
				return fmt.Errorf("page at %#x: %w", addr, err)
			}
			if _, err := bw.Write(buf); err != nil {
				return fmt.Errorf("write pages file: %w", err)
			}
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write pages file: %w", err)
	}
	return f.WriteFile(path)
}
