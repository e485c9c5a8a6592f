package pagemap

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// PageSize is the size in bytes of what an entry counts, whatever the size of the pages behind it.
const PageSize = 4096

// Flags say where the content of an entry's pages is (criu/include/pagemap.h).
type Flags uint32

// The flags. CRIU sets Lazy for all memory that a restore could fill in later, also where the content is Present.
const (
	Parent  Flags = 1 << iota // in the image set before this one
	Lazy                      // may be filled in after the restore
	Present                   // in this set's pages-N.img
)

// Has says whether all of the flags are set.
func (f Flags) Has(want Flags) bool { return f&want == want }

// Entry is a run of pages whose content is in the same place.
type Entry struct {
	Addr  uint64 // of the first byte; in shared memory its offset
	Pages uint64
	Flags Flags
}

// End is the address of the first byte behind the entry. It does not overflow in an entry that was read.
func (e Entry) End() uint64 { return e.Addr + e.Pages*PageSize }

// InPlace says whether the content is in no image set: the dump left it in the task's memory.
func (e Entry) InPlace() bool { return e.Flags.Has(Lazy) && e.Flags&(Parent|Present) == 0 }

// Held says whether the content is in this set's pages-N.img.
func (e Entry) Held() bool { return e.Flags.Has(Present) && !e.Flags.Has(Parent) }

// File is a pagemap image.
type File struct {
	PagesID uint32  // N of pages-N.img
	Entries []Entry // ascending, without overlap
}

// PagesName is the name of the file that holds the present pages.
func (f *File) PagesName() string {
	return "pages-" + strconv.FormatUint(uint64(f.PagesID), 10) + ".img"
}

// ErrMalformed is an image that is not as it has to be.
var ErrMalformed = errors.New("malformed pagemap")

// Select returns the entries for which want is true: Select(f.Entries, Entry.InPlace).
func Select(entries []Entry, want func(Entry) bool) []Entry {
	var s []Entry
	for _, e := range entries {
		if want(e) {
			s = append(s, e)
		}
	}
	return s
}

// Count is the number of pages of all entries.
func Count(entries []Entry) uint64 {
	var n uint64
	for _, e := range entries {
		n += e.Pages
	}
	return n
}

// Image is a pagemap of an image set.
type Image struct {
	ID    int  // the task's pid in its own namespace, or the shared memory's number
	Shmem bool // it is shared memory's
	Path  string
}

const (
	prefixTask   = "pagemap-"
	prefixShared = "pagemap-shmem-"
	suffix       = ".img"
)

// TaskPath is the path of a task's pagemap in the image set in dir.
func TaskPath(dir string, vpid int) string {
	return filepath.Join(dir, prefixTask+strconv.Itoa(vpid)+suffix)
}

// List finds the pagemaps of the image set in dir: those of tasks, then those of shared memory, ascending by number. Files
// whose names only resemble theirs are left out.
func List(dir string) ([]Image, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the image set: %w", err)
	}
	var list []Image
	for _, n := range names {
		if id, ok := number(n.Name(), prefixTask, 31); ok {
			list = append(list, Image{ID: id, Path: filepath.Join(dir, n.Name())})
		} else if id, ok := number(n.Name(), prefixShared, strconv.IntSize-1); ok {
			list = append(list, Image{ID: id, Shmem: true, Path: filepath.Join(dir, n.Name())})
		}
	}
	slices.SortFunc(list, func(a, b Image) int {
		switch {
		case a.Shmem == b.Shmem:
			return cmp.Compare(a.ID, b.ID)
		case a.Shmem:
			return 1
		default:
			return -1
		}
	})
	return list, nil
}

// number takes the decimal number of at most bits out of a file name; it must be written as CRIU writes it.
func number(name, prefix string, bits int) (int, bool) {
	text, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	if text, ok = strings.CutSuffix(text, suffix); !ok {
		return 0, false
	}
	id, err := strconv.ParseUint(text, 10, bits)
	return int(id), err == nil && strconv.FormatUint(id, 10) == text
}
