package postcopy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Record types, see the package's documentation.
const (
	recPages = 1
	recZero  = 2
	recAsk   = 1
	recAck   = 2
)

const (
	keySize = 13 // type, process, page
	maxRun  = 256
	maxPage = 1 << 52
)

// ErrFormat is a stream that is not as it has to be.
var ErrFormat = errors.New("malformed stream of pages")

// Writer is a stream that gathers what it is given until it is flushed.
type Writer interface {
	io.Writer
	Flush() error
}

func appendKey(b []byte, kind byte, r Run) []byte {
	b = append(b, kind)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.VPID))
	return binary.LittleEndian.AppendUint64(b, r.Page)
}

func appendPages(b []byte, r Run) []byte {
	return binary.LittleEndian.AppendUint16(appendKey(b, recPages, r), uint16(r.Pages))
}

func appendZero(b []byte, r Run) []byte {
	return binary.LittleEndian.AppendUint32(appendKey(b, recZero, r), r.Pages)
}

func appendAsk(b []byte, r Run) []byte { return appendKey(b, recAsk, r) }

func appendAck(b []byte, r Run) []byte {
	return binary.LittleEndian.AppendUint32(appendKey(b, recAck, r), r.Pages)
}

var zeros [PageSize]byte

// writePages writes records for what the pages of a run hold.
func writePages(w io.Writer, r Run, p []byte) error {
	var head [keySize + 4]byte
	for len(p) > 0 {
		zero := isZero(p)
		n := 1
		for n*PageSize < len(p) && n < maxRun && isZero(p[n*PageSize:]) == zero {
			n++
		}
		part := Run{r.VPID, r.Page, uint32(n)}
		b := appendPages(head[:0], part)
		if zero {
			b = appendZero(head[:0], part)
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if !zero {
			if _, err := w.Write(p[:n*PageSize]); err != nil {
				return err
			}
		}
		r.Page, p = r.Page+uint64(n), p[n*PageSize:]
	}
	return nil
}

// isZero looks at the first page of p.
func isZero(p []byte) bool { return bytes.Equal(p[:PageSize], zeros[:]) }

// readKey reads the beginning of a record. io.EOF is the stream's end; an error of the reader stays what it is.
func readKey(r io.Reader) (kind byte, run Run, err error) {
	var b [keySize]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return 0, run, err
	}
	if err := readAll(r, b[1:]); err != nil {
		return 0, run, err
	}
	run = Run{int32(binary.LittleEndian.Uint32(b[1:])), binary.LittleEndian.Uint64(b[5:]), 1}
	if run.VPID <= 0 || run.Page >= maxPage {
		return 0, run, fmt.Errorf("%w: page %#x of process %d", ErrFormat, run.Page, run.VPID)
	}
	return b[0], run, nil
}

// readAll fills p; the stream's end is an error here.
func readAll(r io.Reader, p []byte) error {
	_, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends within a record", ErrFormat)
	}
	return err
}

// readPages reads the next record of pages; content is in buf, which has room for maxRun pages, or nil for zeros.
func readPages(r io.Reader, buf []byte) (run Run, content []byte, err error) {
	kind, run, err := readKey(r)
	if err != nil {
		return run, nil, err
	}
	var n [4]byte
	switch kind {
	case recPages:
		if err := readAll(r, n[:2]); err != nil {
			return run, nil, err
		}
		run.Pages = uint32(binary.LittleEndian.Uint16(n[:]))
		if run.Pages == 0 || run.Pages > maxRun {
			return run, nil, fmt.Errorf("%w: %d pages in a record", ErrFormat, run.Pages)
		}
		content = buf[:run.Pages*PageSize]
		return run, content, readAll(r, content)
	case recZero:
		if err := readAll(r, n[:]); err != nil {
			return run, nil, err
		}
		run.Pages = binary.LittleEndian.Uint32(n[:])
		return run, nil, nil
	}
	return run, nil, fmt.Errorf("%w: record of type %d", ErrFormat, kind)
}

// readWord reads what the destination says next: it asks for a page, or acknowledges some.
func readWord(r io.Reader) (ask bool, run Run, err error) {
	kind, run, err := readKey(r)
	if err != nil {
		return false, run, err
	}
	switch kind {
	case recAsk:
		return true, run, nil
	case recAck:
		var n [4]byte
		if err := readAll(r, n[:]); err != nil {
			return false, run, err
		}
		run.Pages = binary.LittleEndian.Uint32(n[:])
		return false, run, nil
	}
	return false, run, fmt.Errorf("%w: record of type %d", ErrFormat, kind)
}
