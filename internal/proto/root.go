package proto

import (
	"crypto/sha256"
	"encoding/binary"
	"sort"
)

// StreamSum is one finished bulk stream: what both sides saw of it.
type StreamSum struct {
	ID    uint32
	Kind  uint16
	Bytes uint64   // raw
	Sum   [32]byte // BLAKE3, as the stream's authenticated end carries it
}

// Root hashes all streams since FROZEN: SHA-256 over, in the order of their numbers, u32 number, u16 kind, u64 bytes and
// the 32 bytes of their hash, big-endian.
func Root(streams []StreamSum) []byte {
	list := append([]StreamSum(nil), streams...)
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	h := sha256.New()
	var b []byte
	for _, s := range list {
		b = binary.BigEndian.AppendUint32(b[:0], s.ID)
		b = binary.BigEndian.AppendUint16(b, s.Kind)
		b = binary.BigEndian.AppendUint64(b, s.Bytes)
		h.Write(append(b, s.Sum[:]...))
	}
	return h.Sum(nil)
}
