package pages

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
)

// sum stands for the content of a page: equal sums are taken for equal pages.
//
// It is GMAC under a key drawn for the table. For two different pages, chosen in whatever way by someone who does not
// know the key, the sums are equal with a probability of at most 2^-119, which polynomial hashing guarantees. Whoever
// chooses what pages contain, the container, gets to see neither key nor sums: the key goes to the destination, which has
// the pages themselves, and sums do not leave the processes that compute them. On processors with carry-less
// multiplication it is faster than anything else of 128 bits.
type sum struct{ lo, hi uint64 }

// Key is what sums are computed under.
type Key [16]byte

// newKey draws a key.
func newKey() (key Key) {
	_, _ = rand.Read(key[:]) // never fails
	return key
}

// KeyOf takes a key that came from the peer.
func KeyOf(b []byte) (key Key, err error) {
	if len(b) != len(key) {
		return key, fmt.Errorf("key of %d bytes for pages, want %d", len(b), len(key))
	}
	return Key(b), nil
}

// mac makes the function that computes sums.
func (key Key) mac() cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("pages: " + err.Error()) // only for keys of a wrong length
	}
	mac, err := cipher.NewGCM(block)
	if err != nil {
		panic("pages: " + err.Error()) // only for block sizes other than AES has
	}
	return mac
}

// hasher computes sums; it is for one goroutine at a time.
type hasher struct {
	mac   cipher.AEAD
	nonce [12]byte // always zero: it only matters for those who see sums
	out   [16]byte
}

func (s sum) bytes() (b [sumSize]byte) {
	binary.LittleEndian.PutUint64(b[:], s.lo)
	binary.LittleEndian.PutUint64(b[8:], s.hi)
	return b
}

func (h *hasher) sum(page []byte) sum {
	out := h.mac.Seal(h.out[:0], h.nonce[:], nil, page)
	return sum{binary.LittleEndian.Uint64(out), binary.LittleEndian.Uint64(out[8:])}
}

var zeroPage [PageSize]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }
