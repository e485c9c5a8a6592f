package filler

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"migrate/internal/track"
)

// Job is what all pieces have in common.
type Job struct {
	Store   string   `json:"store"`   // the page store's file
	Objects []string `json:"objects"` // paths of shared memory, to be opened as files
}

// Piece is content of shared memory: consecutive slots of the store.
type Piece struct {
	Object uint32 // by its place in the job
	Slot   uint32
	Pages  uint32
	Last   uint32 // 1: nobody else needs the slots, whose memory is given back
	Off    uint64 // where they belong in the object, in bytes
}

// maxJob bounds what the filler reads of a job, in bytes.
const maxJob = 64 << 20

// writeJob sends a job and its pieces.
func writeJob(w io.Writer, job Job, pieces []Piece) error {
	b := bufio.NewWriterSize(w, 64<<10)
	if err := json.NewEncoder(b).Encode(job); err != nil {
		return err
	}
	for i := range pieces {
		if err := binary.Write(b, binary.LittleEndian, &pieces[i]); err != nil {
			return err
		}
	}
	return b.Flush()
}

// readJob reads a job; the pieces follow in what it returns.
func readJob(r io.Reader) (job Job, pieces *bufio.Reader, err error) {
	pieces = bufio.NewReaderSize(r, 64<<10)
	var line []byte
	for {
		part, err := pieces.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			if err := json.Unmarshal(line, &job); err != nil {
				return job, nil, fmt.Errorf("decode the job: %w", err)
			}
			return job, pieces, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return job, nil, fmt.Errorf("read the job: %w", err)
		case len(line) > maxJob:
			return job, nil, errors.New("the job has no end")
		}
	}
}

// readPieces calls yield with the pieces, none longer than most pages.
func readPieces(r io.Reader, most uint32, yield func(Piece) error) error {
	for {
		var p Piece
		err := binary.Read(r, binary.LittleEndian, &p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read what to fill: %w", err)
		}
		for p.Pages > 0 {
			part := p
			part.Pages = min(p.Pages, most)
			if err := yield(part); err != nil {
				return err
			}
			p.Slot, p.Pages, p.Off = p.Slot+part.Pages, p.Pages-part.Pages, p.Off+uint64(part.Pages)*track.PageSize
		}
	}
}
