package pages

import "encoding/binary"

// PageSize is the size of a page and of a slot in bytes.
const PageSize = 4096

// Record types, see the package's documentation.
const (
	recData  = 1
	recMap   = 2
	recDrop  = 3
	recDelta = 4
	recEnd   = 5
)

// Lengths in bytes of records, DATA and DELTA without what follows their fields.
const (
	dataSize  = 7
	mapSize   = 21
	dropSize  = 21
	deltaSize = 11
	endSize   = 1
)

const (
	maxRun   = 256          // slots of one DATA
	maxDelta = PageSize / 2 // bytes of a patch: a longer one saves too little
	maxPage  = 1 << 52      // page numbers are below it, as addresses have 64 bits
)

func appendData(b []byte, slot uint32, n int) []byte {
	b = append(b, recData)
	b = binary.LittleEndian.AppendUint32(b, slot)
	return binary.LittleEndian.AppendUint16(b, uint16(n))
}

func appendMap(b []byte, r mapRun) []byte {
	b = append(b, recMap)
	b = binary.LittleEndian.AppendUint32(b, uint32(r.space))
	b = binary.LittleEndian.AppendUint64(b, r.page)
	b = binary.LittleEndian.AppendUint32(b, r.n)
	return binary.LittleEndian.AppendUint32(b, r.slot)
}

func appendDrop(b []byte, space int32, page, n uint64) []byte {
	b = append(b, recDrop)
	b = binary.LittleEndian.AppendUint32(b, uint32(space))
	b = binary.LittleEndian.AppendUint64(b, page)
	return binary.LittleEndian.AppendUint64(b, n)
}

// appendDelta writes the fields of a DELTA; the patch of n bytes is the caller's to append.
func appendDelta(b []byte, slot, sum uint32, n int) []byte {
	b = append(b, recDelta)
	b = binary.LittleEndian.AppendUint32(b, slot)
	b = binary.LittleEndian.AppendUint32(b, sum)
	return binary.LittleEndian.AppendUint16(b, uint16(n))
}

// mapRun is a MAP record: n pages from page in as many slots from slot, or all zero when that is 0.
type mapRun struct {
	space int32
	page  uint64
	n     uint32
	slot  uint32
}

// extend takes a further page into the run where it continues it.
func (r *mapRun) extend(space int32, page uint64, slot uint32) bool {
	if r.n == 0 || r.n == 1<<32-1 || space != r.space || page != r.page+uint64(r.n) {
		return false
	}
	if (r.slot == 0) != (slot == 0) || slot != 0 && slot != r.slot+r.n {
		return false
	}
	r.n++
	return true
}
