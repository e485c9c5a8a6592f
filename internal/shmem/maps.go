package shmem

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mapping is a line of /proc/PID/maps.
type mapping struct {
	start, end uint64
	shared     bool
	writable   bool
	offset     uint64 // in the object
	key        key
	ring       bool // of asynchronous I/O
}

// key tells objects apart.
type key struct {
	dev string // as /proc/PID/maps writes it
	ino uint64
}

// nothing is the device of mappings with nothing behind them. Their inode number is 0, but so is that of a segment with the identifier 0.
const nothing = "00:00"

// path is the way to what is mapped.
func (m mapping) path(pid int) string {
	return fmt.Sprintf("/proc/%d/map_files/%x-%x", pid, m.start, m.end)
}

// readMaps calls yield with the mappings of a process that have anything behind them, until it returns false.
func readMaps(pid int, yield func(mapping) bool) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return fmt.Errorf("read memory map: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	const longest = 64 << 10 // a path may be as long as a page, each byte of it written as four
	sc.Buffer(nil, longest)
	for sc.Scan() {
		m, ok, err := parseMapping(sc.Text())
		if err != nil {
			return err
		}
		if ok && !yield(m) {
			return nil
		}
	}
	// a process that is ending has no memory any more
	if err := sc.Err(); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("read memory map: %w", err)
	}
	return nil
}

// parseMapping parses "start-end perms offset dev inode   name"; ok is false where there is nothing behind the mapping.
func parseMapping(line string) (m mapping, ok bool, err error) {
	f := strings.Fields(line)
	bad := fmt.Errorf("line of memory map not understood: %q", line)
	if len(f) < 5 || len(f[1]) != 4 {
		return m, false, bad
	}
	first, last, found := strings.Cut(f[0], "-")
	if !found {
		return m, false, bad
	}
	var errs [4]error
	m.start, errs[0] = strconv.ParseUint(first, 16, 64)
	m.end, errs[1] = strconv.ParseUint(last, 16, 64)
	m.offset, errs[2] = strconv.ParseUint(f[2], 16, 64)
	m.key.ino, errs[3] = strconv.ParseUint(f[4], 10, 64)
	if errors.Join(errs[:]...) != nil {
		return m, false, bad
	}
	m.writable, m.shared, m.key.dev = f[1][1] == 'w', f[1][3] == 's', f[3]
	m.ring = len(f) > 5 && strings.HasPrefix(f[5], "/[aio]")
	return m, m.key.dev != nothing, nil
}

// mappingAt finds the mapping that contains an address.
func mappingAt(pid int, addr uint64) (mapping, error) {
	var found *mapping
	err := readMaps(pid, func(m mapping) bool {
		if m.start <= addr && addr < m.end {
			found = &m
		}
		return found == nil
	})
	switch {
	case err != nil:
		return mapping{}, err
	case found == nil:
		return mapping{}, fmt.Errorf("nothing is mapped at %#x", addr)
	}
	return *found, nil
}
