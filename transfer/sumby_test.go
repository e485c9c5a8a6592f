package transfer

import (
	"errors"
	"hash/crc32"
	"io"
	"testing"
)

// ownHash is what an application might hash with.
type ownHash struct{ crc uint32 }

func (h *ownHash) Write(p []byte) (int, error) {
	h.crc = crc32.Update(h.crc, crc32.IEEETable, p)
	return len(p), nil
}

func (h *ownHash) sum() (out [32]byte) {
	out[0], out[1], out[2], out[3] = byte(h.crc), byte(h.crc>>8), byte(h.crc>>16), byte(h.crc>>24)
	return out
}

// A stream whose two ends hash its content by themselves ends well if and only if they come to the same.
func TestSumBy(t *testing.T) {
	for name, c := range map[string]struct {
		writer, reader bool
		damage         byte
		good           bool
	}{
		"both": {true, true, 0, true}, "both, other content": {true, true, 1, false}, "the writer alone": {true, false, 0, false}, "the reader alone": {false, true, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := tlsPair(t, Options{Lanes: 2}, Options{})
			content := noise(3 << 20)
			var theirs, ours ownHash
			w, err := src.OpenStream(t.Context(), 1, nil, StreamOptions{})
			must(t, err)
			if c.writer {
				w.SumBy(theirs.sum)
			}
			r, err := dst.Accept(t.Context())
			must(t, err)
			if c.reader {
				r.SumBy(ours.sum)
			}
			ours.crc = crc32.Update(0, crc32.IEEETable, nil)
			var g testGroup
			g.run(func() error {
				_, err := io.Copy(&ours, r)
				if c.good && err == nil && r.Sum() != w.Sum() {
					return errors.New("the two ends know different hashes")
				}
				if good := err == nil; good != c.good {
					return errors.Join(errors.New("the stream's end is taken wrongly"), err)
				}
				return nil
			})
			_, _ = theirs.Write(content)
			theirs.crc ^= uint32(c.damage)
			_, err = w.Write(content)
			must(t, err)
			_ = w.Close() // the peer may have ended the session by then
			g.wait(t)
		})
	}
}
