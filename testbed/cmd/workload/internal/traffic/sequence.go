package traffic

import (
	"bytes"
	"encoding/binary"
)

const wordLen = 8

// A sequence is endless bytes that follow from a seed, so that both ends of a connection know them and each other's place.
type sequence struct {
	seed uint64
	at   uint64 // how many bytes came before
}

// fill takes the next bytes.
func (s *sequence) fill(b []byte) {
	for len(b) > 0 {
		word, within := mix(s.seed^mix(s.at/wordLen)), s.at%wordLen
		n := 1
		if within == 0 && len(b) >= wordLen {
			binary.LittleEndian.PutUint64(b, word)
			n = wordLen
		} else {
			b[0] = byte(word >> (8 * within))
		}
		b = b[n:]
		s.at += uint64(n)
	}
}

// check counts the bytes that are not the next ones. scratch has the same length as b.
func (s *sequence) check(b, scratch []byte) (wrong int64) {
	s.fill(scratch)
	if bytes.Equal(b, scratch) {
		return 0
	}
	for i := range b {
		if b[i] != scratch[i] {
			wrong++
		}
	}
	return wrong
}

// mix is the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
