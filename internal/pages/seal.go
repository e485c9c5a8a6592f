package pages

import "github.com/zeebo/blake3"

// sealContext separates these hashes from all others.
const sealContext = "migrate pages 1 stream"

// sumSize is the size of a page's sum in bytes.
const sumSize = 16

// seal is the hash of a stream, in which a sum stands for each page: pages are hashed once at either side, for whatever purpose.
type seal struct{ h *blake3.Hasher }

func newSeal() *seal { return &seal{blake3.NewDeriveKey(sealContext)} }

// fields takes in what is no content.
func (s *seal) fields(b []byte) { _, _ = s.h.Write(b) } // never fails

// page takes in a page of content.
func (s *seal) page(of sum) {
	b := of.bytes()
	_, _ = s.h.Write(b[:])
}

func (s *seal) sum() (out [32]byte) {
	copy(out[:], s.h.Sum(nil))
	return out
}
