package transfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// frameType says what a frame is.
type frameType uint8

const (
	frameControl frameType = 1 // kind u16, message
	frameOpen    frameType = 2 // kind u16, metadata
	frameData    frameType = 3 // [offset u64], content
	frameClose   frameType = 4 // raw bytes u64, BLAKE3 hash
	frameReset   frameType = 5 // code u16
	framePing    frameType = 6 // value u64
	framePong    frameType = 7 // the PING's value u64
	frameBye     frameType = 8 // empty
)

func (t frameType) String() string {
	names := [...]string{"", "CONTROL", "OPEN", "DATA", "CLOSE", "RESET", "PING", "PONG", "BYE"}
	if t == 0 || int(t) >= len(names) {
		return fmt.Sprintf("frame type %d", uint8(t))
	}
	return names[t]
}

// Sizes in bytes.
const (
	headerSize = 16
	offsetSize = 8
	kindSize   = 2
	hashSize   = 32
	closeSize  = 8 + hashSize
)

// Flags of a frame: the codec in the low bits, then PLACED.
const (
	flagCodecMask = 0x03
	flagPlaced    = 0x04
	flagsKnown    = flagCodecMask | flagPlaced
)

// header precedes every frame.
//
//	0 type u8 | 1 flags u8 | 2 reserved u16 | 4 stream u32 | 8 wire u32 | 12 raw u32
type header struct {
	kind   frameType
	codec  Codec
	placed bool
	stream uint32
	wire   uint32 // bytes that follow the header
	raw    uint32 // bytes of content once decompressed, without the offset
}

func (h header) put(b []byte) {
	flags := uint8(h.codec)
	if h.placed {
		flags |= flagPlaced
	}
	b[0], b[1], b[2], b[3] = uint8(h.kind), flags, 0, 0
	binary.BigEndian.PutUint32(b[4:], h.stream)
	binary.BigEndian.PutUint32(b[8:], h.wire)
	binary.BigEndian.PutUint32(b[12:], h.raw)
}

// parseHeader reads a header and checks all that can be known from it alone,
// every length included.
func parseHeader(b []byte) (header, error) {
	flags := b[1]
	h := header{
		kind:   frameType(b[0]),
		codec:  Codec(flags & flagCodecMask),
		placed: flags&flagPlaced != 0,
		stream: binary.BigEndian.Uint32(b[4:]),
		wire:   binary.BigEndian.Uint32(b[8:]),
		raw:    binary.BigEndian.Uint32(b[12:]),
	}
	if h.kind < frameControl || h.kind > frameBye {
		return h, protocolErrorf("unknown frame type %d", b[0])
	}
	if flags&^flagsKnown != 0 || b[2] != 0 || b[3] != 0 {
		return h, protocolErrorf("%v: reserved bits are set", h.kind)
	}
	if h.kind == frameData {
		return h, h.checkData()
	}
	return h, h.checkPlain(flags)
}

// checkData checks the lengths of a DATA frame.
func (h header) checkData() error {
	content := uint64(h.wire)
	switch {
	case h.codec > CodecS2:
		return protocolErrorf("DATA: unknown codec %d", h.codec)
	case h.raw == 0:
		return protocolErrorf("DATA: no content")
	case h.raw > MaxFrame:
		return limitExceeded("raw length of DATA", uint64(h.raw), MaxFrame)
	case h.placed && h.wire < offsetSize:
		return protocolErrorf("DATA: %d bytes cannot hold an offset", h.wire)
	}
	if h.placed {
		content -= offsetSize
	}
	if h.codec == CodecNone && content != uint64(h.raw) {
		return protocolErrorf("DATA: %d plain bytes for %d raw ones", content, h.raw)
	}
	if h.codec != CodecNone && (content == 0 || content >= uint64(h.raw)) {
		return protocolErrorf("DATA: %d compressed bytes for %d raw ones", content, h.raw)
	}
	return nil
}

// checkPlain checks everything but DATA: no flags, wire length as raw length,
// and the length and the stream the type calls for.
func (h header) checkPlain(flags uint8) error {
	if flags != 0 {
		return protocolErrorf("%v: flags %#x are set", h.kind, flags)
	}
	if h.wire != h.raw {
		return protocolErrorf("%v: wire length %d but raw length %d", h.kind, h.wire, h.raw)
	}
	lo, hi := payloadBounds(h.kind)
	if h.wire < lo {
		return protocolErrorf("%v: %d bytes are too few", h.kind, h.wire)
	}
	if h.wire > hi {
		return limitExceeded("length of "+h.kind.String(), uint64(h.wire), uint64(hi))
	}
	ofStream := h.kind == frameOpen || h.kind == frameClose || h.kind == frameReset
	if !ofStream && h.stream != 0 {
		return protocolErrorf("%v: names stream %d", h.kind, h.stream)
	}
	return nil
}

// payloadBounds is the shortest and longest payload of a frame that is not DATA.
func payloadBounds(t frameType) (lo, hi uint32) {
	switch t {
	case frameControl:
		return kindSize, kindSize + MaxControl
	case frameOpen:
		return kindSize, kindSize + MaxMeta
	case frameClose:
		return closeSize, closeSize
	case frameReset:
		return 2, 2
	case framePing, framePong:
		return 8, 8
	default:
		return 0, 0
	}
}

func limitExceeded(what string, got, limit uint64) error {
	return &LimitError{What: what, Got: got, Max: limit, Remote: true}
}

// frame is one received frame. Its payload is in buf, which the holder
// releases; buf is nil when there is no payload.
type frame struct {
	header
	buf *buffer
}

// payload is what followed the header on the wire.
func (f frame) payload() []byte {
	if f.buf == nil {
		return nil
	}
	return f.buf.content()[:f.wire]
}

// readFrame reads one frame. io.EOF means that r ended between frames;
// an end inside a frame is io.ErrUnexpectedEOF.
func readFrame(r io.Reader, head *[headerSize]byte) (frame, error) {
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	h, err := parseHeader(head[:])
	if err != nil || h.wire == 0 {
		return frame{header: h}, err
	}
	f := frame{header: h, buf: getBuffer(int(h.wire))}
	if _, err := io.ReadFull(r, f.payload()); err != nil {
		f.buf.release()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return frame{}, err
	}
	return f, nil
}

// plainFrame builds a frame of any type but DATA from the parts of its payload.
func plainFrame(t frameType, stream uint32, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	b := make([]byte, headerSize, headerSize+n)
	header{kind: t, stream: stream, wire: uint32(n), raw: uint32(n)}.put(b)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// splitData takes a DATA frame's payload apart. The offset of placed content
// is checked so that offset and end both fit an int64.
func splitData(h header, payload []byte) (off int64, content []byte, err error) {
	if !h.placed {
		return 0, payload, nil
	}
	v := binary.BigEndian.Uint64(payload)
	if v > math.MaxInt64-uint64(h.raw) {
		return 0, nil, protocolErrorf("DATA: offset %d is out of range", v)
	}
	return int64(v), payload[offsetSize:], nil
}
