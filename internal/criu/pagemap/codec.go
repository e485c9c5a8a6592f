package pagemap

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/encoding/protowire"
)

// The file: two magic numbers (criu/include/magic.h), then records of a u32 length and a protobuf message, the first of
// which is the head (images/pagemap.proto). Integers of the file are little-endian.
const (
	magicCommon  = 0x54564319
	magicPagemap = 0x56084025
)

// Fields of the messages.
const (
	headPagesID   = 1
	entryAddr     = 1
	entryPages32  = 2 // the number of pages before CRIU 4.2, which requires it still and writes 0
	entryInParent = 3 // Parent, as CRIU wrote it before there were flags
	entryFlags    = 4
	entryPages    = 5 // the number of pages since CRIU 4.2
)

const (
	maxRecord  = 256     // bytes; an entry takes at most 40
	maxEntries = 1 << 24 // 64 GiB of which every second page is used
	maxAddr    = 1 << 57 // the most that a task can address, with five levels of page tables
	maxBuffer  = 256 << 10
)

// ReadFile reads the image at path.
func ReadFile(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open pagemap: %w", err)
	}
	defer r.Close()
	f, err := Read(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return f, nil
}

// Read reads an image that ends where r does. Whatever is wrong with it is ErrMalformed; what r returns is passed on.
func Read(r io.Reader) (*File, error) {
	br := bufio.NewReaderSize(r, maxBuffer)
	var magic [8]byte
	if _, err := io.ReadFull(br, magic[:]); err != nil {
		return nil, cut(err)
	}
	if binary.LittleEndian.Uint32(magic[:]) != magicCommon || binary.LittleEndian.Uint32(magic[4:]) != magicPagemap {
		return nil, fmt.Errorf("%w: no magic", ErrMalformed)
	}
	buf := make([]byte, maxRecord)
	head, err := readRecord(br, buf)
	if err != nil {
		return nil, cut(err)
	}
	f := &File{}
	if f.PagesID, err = parseHead(head); err != nil {
		return nil, err
	}
	for end := uint64(0); ; {
		b, err := readRecord(br, buf)
		if errors.Is(err, io.EOF) {
			return f, nil
		} else if err != nil {
			return nil, cut(err)
		}
		e, err := parseEntry(b)
		if err != nil {
			return nil, err
		}
		if e.Addr < end {
			return nil, fmt.Errorf("%w: entry at %#x, where the one before it ends at %#x", ErrMalformed, e.Addr, end)
		}
		if len(f.Entries) == maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrMalformed, maxEntries)
		}
		end = e.End()
		f.Entries = append(f.Entries, e)
	}
}

// cut makes the end of the file in the middle of something an error of the file.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut short", ErrMalformed)
	}
	return err
}

// readRecord returns the next record in buf, or io.EOF when there is none.
func readRecord(r io.Reader, buf []byte) ([]byte, error) {
	var l [4]byte
	if _, err := io.ReadFull(r, l[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(l[:])
	if n > uint32(len(buf)) {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrMalformed, n)
	}
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return nil, cut(err)
	}
	return buf[:n], nil
}

func parseHead(b []byte) (uint32, error) {
	v, err := varints(b)
	if err != nil {
		return 0, err
	}
	if !v.has(headPagesID) || v.value[headPagesID] > math.MaxUint32 {
		return 0, fmt.Errorf("%w: the head names no pages", ErrMalformed)
	}
	return uint32(v.value[headPagesID]), nil
}

func parseEntry(b []byte) (Entry, error) {
	v, err := varints(b)
	if err != nil {
		return Entry{}, err
	}
	e := Entry{Addr: v.value[entryAddr], Pages: v.value[entryPages]}
	if !v.has(entryPages) {
		e.Pages = v.value[entryPages32]
	}
	switch {
	case !v.has(entryAddr) || !v.has(entryPages32) || v.value[entryPages32] > math.MaxUint32:
		return e, fmt.Errorf("%w: an entry lacks what is required", ErrMalformed)
	case e.Addr%PageSize != 0 || e.Addr >= maxAddr:
		return e, fmt.Errorf("%w: an entry at %#x", ErrMalformed, e.Addr)
	case e.Pages == 0 || e.Pages > (maxAddr-e.Addr)/PageSize:
		return e, fmt.Errorf("%w: an entry of %d pages at %#x", ErrMalformed, e.Pages, e.Addr)
	case v.value[entryFlags] > math.MaxUint32:
		return e, fmt.Errorf("%w: an entry's flags are %#x", ErrMalformed, v.value[entryFlags])
	}
	// as criu/pagemap.c, init_compat_pagemap_entry, has it
	e.Flags = Flags(v.value[entryFlags])
	if v.value[entryInParent] != 0 {
		e.Flags |= Parent
	} else if !v.has(entryFlags) {
		e.Flags = Present
	}
	return e, nil
}

// fields are the numbers of a message, by field.
type fields struct {
	value [entryPages + 1]uint64
	seen  [entryPages + 1]bool
}

func (f *fields) has(n protowire.Number) bool { return f.seen[n] }

// varints reads a message all of whose known fields are numbers. Unknown fields are passed over, as protobuf has it.
func varints(b []byte) (*fields, error) {
	f := &fields{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		if int64(num) >= int64(len(f.value)) {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return nil, fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		if typ != protowire.VarintType {
			return nil, fmt.Errorf("%w: field %d is no number", ErrMalformed, num)
		}
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return nil, fmt.Errorf("%w: %w", ErrMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		f.value[num], f.seen[num] = v, true
	}
	return f, nil
}

// WriteFile stores the image at path, readable by its owner only, in the place of what was there.
func (f *File) WriteFile(path string) error {
	w, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make pagemap: %w", err)
	}
	if err := f.Write(w); err != nil {
		w.Close()
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Write stores the image so that every version of CRIU reads it: both fields hold the number of pages, unless it does not
// fit the older one.
func (f *File) Write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, maxBuffer)
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, maxRecord), magicCommon)
	bw.Write(binary.LittleEndian.AppendUint32(b, magicPagemap)) // errors stick and show at Flush
	record := make([]byte, 0, maxRecord)
	writeRecord(bw, b[:0], field(record, headPagesID, uint64(f.PagesID)))
	for _, e := range f.Entries {
		small := e.Pages
		if small > math.MaxUint32 {
			small = 0
		}
		m := field(record, entryAddr, e.Addr)
		m = field(m, entryPages32, small)
		m = field(m, entryFlags, uint64(e.Flags))
		writeRecord(bw, b[:0], field(m, entryPages, e.Pages))
	}
	return bw.Flush()
}

func field(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func writeRecord(w *bufio.Writer, scratch, m []byte) {
	w.Write(binary.LittleEndian.AppendUint32(scratch, uint32(len(m))))
	w.Write(m)
}
