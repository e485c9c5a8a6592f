package track

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"migrate/internal/uffd"

	"golang.org/x/sys/unix"
)

// found is a run of pages whose content is the process's own: there or swapped out, not a file's page. quiet means that the kernel
// knows them to be unwritten since the soft-dirty marks were cleared.
type found struct {
	Range
	quiet bool
}

// lister lists the pages that a process has in a part of its memory.
type lister interface {
	// list goes through an open /proc/PID/pagemap. It works for any mapping, and for memory that is gone it finds nothing.
	list(pagemap *os.File, in Range, emit func(found)) error
}

// newLister picks the fast way if the kernel has it (Linux 6.7).
func newLister() lister {
	if scanWorks() {
		return &scanLister{uffd.NewScanner(-1)}
	}
	return &wordLister{buf: NewBuffer(wordBuffer)}
}

var scanWorks = sync.OnceValue(func() bool {
	f, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return false
	}
	defer f.Close()
	page := uint64(uintptr(unsafe.Pointer(&make([]byte, 2*PageSize)[0]))) &^ (PageSize - 1)
	l := scanLister{uffd.NewScanner(-1)}
	return l.list(f, Range{page, page + PageSize}, func(found) {}) == nil
})

// scanLister uses PAGEMAP_SCAN.
type scanLister struct{ s *uffd.Scanner }

func (l *scanLister) list(pagemap *os.File, in Range, emit func(found)) error {
	l.s.Use(int(pagemap.Fd()))
	q := ownPages
	q.Return, q.Unregistered = uffd.SoftDirty|uffd.Present, true
	err := l.s.Scan(in.Start, in.End, q, func(r uffd.Region) {
		emit(found{Range{r.Start, r.End}, r.Cat == uffd.Present})
	})
	if err != nil {
		return fmt.Errorf("scan pages at %#x: %w", in.Start, err)
	}
	return nil
}

// ownPages finds what is there or swapped out and is neither a file's page nor the page of zeros. Entries that are empty must not match: the
// kernel would put marks into them, which look like content later.
var ownPages = uffd.Query{
	Inverted: uffd.File | uffd.PFNZero,
	Mask:     uffd.File | uffd.PFNZero,
	AnyOf:    uffd.Present | uffd.Swapped,
}

// wordLister reads the 64-bit words of the pagemap file, one for each page, also for the holes in a sparse mapping.
type wordLister struct{ buf []byte }

const wordBuffer = 256 << 10

func (l *wordLister) list(pagemap *os.File, in Range, emit func(found)) error {
	for at := in.Start; at < in.End; {
		want := min((in.End-at)/PageSize*8, uint64(len(l.buf)))
		n, err := unix.Pread(int(pagemap.Fd()), l.buf[:want], int64(at/PageSize*8))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read pagemap at %#x: %w", at, err)
		}
		if n < 8 {
			return nil // the memory is gone
		}
		decodeWords(l.buf[:n&^7], at, emit)
		at += uint64(n/8) * PageSize
	}
	return nil
}

// Bits of a word of the pagemap file (Documentation/admin-guide/mm/pagemap.rst).
const (
	wordSoftDirty = 1 << 55
	wordExclusive = 1 << 56 // mapped once
	wordFile      = 1 << 61
	wordSwapped   = 1 << 62
	wordPresent   = 1 << 63
)

// decodeWords emits the runs in the words of consecutive pages, the first of which is at addr.
//
// The page of zeros cannot be told from others here. It is taken for content, which is merely a waste, but not for quiet: it stands
// where content has been dropped, and is never mapped exclusively.
func decodeWords(words []byte, addr uint64, emit func(found)) {
	var run found
	for ; len(words) >= 8; words, addr = words[8:], addr+PageSize {
		w := binary.NativeEndian.Uint64(words)
		if w&(wordPresent|wordSwapped) == 0 || w&wordFile != 0 {
			continue
		}
		quiet := w&(wordPresent|wordExclusive|wordSoftDirty) == wordPresent|wordExclusive
		if run.End == addr && run.quiet == quiet && run.Start != run.End {
			run.End += PageSize
			continue
		}
		if run.Start != run.End {
			emit(run)
		}
		run = found{Range{addr, addr + PageSize}, quiet}
	}
	if run.Start != run.End {
		emit(run)
	}
}
