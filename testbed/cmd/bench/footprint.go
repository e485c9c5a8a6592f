package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// A footprint is what must be sent of a memory at the least: every page once that is not all zeros and not the same as
// another, compressed by zstd at level 1 in one stream.
type footprint struct {
	pages  int64 // present
	unique int64 // of them, neither zeros nor a copy
	zstd   int64 // bytes
}

const pageSize = 4096

// The bits of /proc/PID/pagemap, see the kernel's admin-guide/mm/pagemap.rst.
const (
	pagePresent = 1 << 63
	pageSwapped = 1 << 62
	pageShared  = 1 << 61 // of a file, or of shared anonymous memory
)

// batchPages is how much is looked at in one step.
const batchPages = 256

// readFootprint reads the private memory of a process, which has the directory dir in a /proc. Pages that are not there
// are not touched, so nothing changes for the process, which runs on meanwhile.
func readFootprint(dir string) (footprint, error) {
	spans, err := readSpans(filepath.Join(dir, "maps"))
	if err != nil {
		return footprint{}, fmt.Errorf("read the container's memory: %w", err)
	}
	return surveySpans(dir, spans)
}

// A span is addresses, the end not among them.
type span struct{ begin, end uint64 }

// readSpans lists the mappings of a process but those that are the kernel's.
func readSpans(maps string) ([]span, error) {
	text, err := os.ReadFile(maps)
	if err != nil {
		return nil, err
	}
	var spans []span
	for line := range strings.Lines(string(text)) {
		var s span
		if _, err := fmt.Sscanf(line, "%x-%x", &s.begin, &s.end); err != nil {
			return nil, fmt.Errorf("line %q of maps: %w", line, err)
		}
		if f := strings.Fields(line); strings.HasPrefix(f[len(f)-1], "[v") { // vdso, vvar, vsyscall
			continue
		}
		spans = append(spans, s)
	}
	return spans, nil
}

// surveySpans is readFootprint for part of the memory.
func surveySpans(dir string, spans []span) (footprint, error) {
	s := &surveyor{seed: maphash.MakeSeed(), seen: map[uint64]struct{}{}}
	enc, err := zstd.NewWriter(&s.packed, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return footprint{}, err
	}
	s.out = enc
	if err := s.survey(dir, spans); err != nil {
		_ = enc.Close()
		return footprint{}, fmt.Errorf("read the container's memory: %w", err)
	}
	if err := enc.Close(); err != nil {
		return footprint{}, fmt.Errorf("compress the container's memory: %w", err)
	}
	s.found.zstd = int64(s.packed)
	return s.found, nil
}

// A surveyor gathers a footprint.
type surveyor struct {
	mem, pagemap *os.File
	seed         maphash.Seed
	seen         map[uint64]struct{} // hashes of the pages so far
	out          io.Writer
	packed       counter
	found        footprint
}

// A counter is a writer that counts.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

func (s *surveyor) survey(dir string, spans []span) (err error) {
	if s.mem, err = os.Open(filepath.Join(dir, "mem")); err != nil {
		return err
	}
	defer s.mem.Close()
	if s.pagemap, err = os.Open(filepath.Join(dir, "pagemap")); err != nil {
		return err
	}
	defer s.pagemap.Close()
	for _, all := range spans {
		for at := all.begin; at < all.end; at += batchPages * pageSize {
			if err := s.batch(at, min(all.end, at+batchPages*pageSize)); err != nil {
				return err
			}
		}
	}
	return nil
}

// batch looks at the pages from begin to end.
func (s *surveyor) batch(begin, end uint64) error {
	var entries [batchPages * 8]byte
	count := (end - begin) / pageSize
	if _, err := s.pagemap.ReadAt(entries[:count*8], int64(begin/pageSize*8)); err != nil {
		return fmt.Errorf("pagemap: %w", err)
	}
	var page [pageSize]byte
	for i := range count {
		e := binary.NativeEndian.Uint64(entries[i*8:])
		if e&(pagePresent|pageSwapped) == 0 || e&pageShared != 0 {
			continue
		}
		if _, err := s.mem.ReadAt(page[:], int64(begin+i*pageSize)); errors.Is(err, unix.EIO) {
			continue // the process has unmapped it by now
		} else if err != nil {
			return fmt.Errorf("page %#x: %w", begin+i*pageSize, err)
		}
		if err := s.add(page[:]); err != nil {
			return err
		}
	}
	return nil
}

var zeroPage [pageSize]byte

// add takes in a page.
func (s *surveyor) add(page []byte) error {
	s.found.pages++
	if bytes.Equal(page, zeroPage[:]) {
		return nil
	}
	sum := maphash.Bytes(s.seed, page)
	if _, known := s.seen[sum]; known {
		return nil
	}
	s.seen[sum] = struct{}{}
	s.found.unique++
	_, err := s.out.Write(page)
	return err
}
