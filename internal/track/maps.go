package track

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
)

// vma is a line of /proc/PID/maps that matters here: private memory.
type vma struct {
	Range
	anon bool // no file behind it, no hugetlb
}

// space is a process's memory map.
type space struct {
	still   bool  // nothing of it runs: no system call can be put into it
	private []vma // ascending, apart from each other
	vdso    Range
	aio     bool // the process has a ring of asynchronous I/O
}

// mapReader reads memory maps into a buffer that is used again.
type mapReader struct{ buf bytes.Buffer }

// read parses /proc/PID/maps, which is empty for a process that has ended. It may miss mappings that come or change meanwhile.
func (m *mapReader) read(pid int) (space, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return space{}, gone(pid, fmt.Errorf("read memory map of process %d: %w", pid, err))
	}
	defer f.Close()
	m.buf.Reset()
	if _, err := io.Copy(&m.buf, f); err != nil {
		return space{}, gone(pid, fmt.Errorf("read memory map of process %d: %w", pid, err))
	}
	return parseMaps(m.buf.Bytes())
}

func parseMaps(text []byte) (space, error) {
	var s space
	s.private = slices.Grow(s.private, bytes.Count(text, []byte{'\n'}))
	var end uint64
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte{'\n'})
		e, err := parseLine(line)
		if err != nil {
			return space{}, err
		}
		switch {
		case bytes.Equal(e.name, []byte("[vdso]")):
			s.vdso = e.Range
		case bytes.HasPrefix(e.name, []byte("/[aio]")):
			s.aio = true
		}
		// a mapping that grew between two chunks of the file may be shown twice
		e.Start = max(e.Start, end)
		if e.shared || e.Start >= e.End || special(e.name) {
			continue
		}
		end = e.End
		s.private = append(s.private, e.vma)
	}
	return s, nil
}

// entry is a line of the file.
type entry struct {
	vma
	shared bool
	name   []byte // may be empty
}

// parseLine parses "start-end perms offset dev inode   name".
func parseLine(line []byte) (entry, error) {
	bad := func() (entry, error) { return entry{}, fmt.Errorf("line of memory map not understood: %q", line) }
	var e entry
	var ok bool
	rest := line
	if e.Start, rest, ok = hex(rest, '-'); !ok {
		return bad()
	}
	if e.End, rest, ok = hex(rest, ' '); !ok || e.End < e.Start {
		return bad()
	}
	var f [4][]byte // perms, offset, dev, inode
	for i := range f {
		f[i], rest, _ = bytes.Cut(rest, []byte{' '})
	}
	if len(f[0]) != 4 || len(f[3]) == 0 {
		return bad()
	}
	e.shared = f[0][3] != 'p'
	e.name = bytes.TrimLeft(rest, " ")
	e.anon = string(f[2]) == "00:00" && string(f[3]) == "0" && !bytes.HasPrefix(e.name, []byte{'/'})
	return e, nil
}

// hex reads a hexadecimal number that ends with the separator.
func hex(b []byte, sep byte) (n uint64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == sep:
			return n, b[i+1:], i > 0
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		default:
			return 0, nil, false
		}
	}
	return 0, nil, false
}

// special tells the kernel's own mappings ([vdso], [vvar], [vsyscall] and what may come) by their name from memory that the
// program has made. Leaving one out is safe: nothing in it is ever called clean.
func special(name []byte) bool {
	if !bytes.HasPrefix(name, []byte{'['}) {
		return false
	}
	for _, known := range [][]byte{[]byte("[heap]"), []byte("[stack"), []byte("[anon:")} {
		if bytes.HasPrefix(name, known) {
			return false
		}
	}
	return true
}
