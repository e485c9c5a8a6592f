package transfer

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Codec is how one frame is compressed.
type Codec uint8

// Codecs, with their numbers on the wire.
const (
	CodecNone Codec = 0
	CodecZstd Codec = 1
	CodecS2   Codec = 2

	codecCount = 3
)

func (c Codec) String() string {
	switch c {
	case CodecNone:
		return "none"
	case CodecZstd:
		return "zstd"
	case CodecS2:
		return "s2"
	default:
		return fmt.Sprintf("codec %d", uint8(c))
	}
}

// CodecChoice is how a stream picks the codec of its frames. Whatever the
// choice, a frame that does not get smaller is sent plain.
type CodecChoice uint8

// Choices. Auto, the zero value, picks frame by frame from what compressing
// gains and costs and what the lane can carry.
const (
	Auto CodecChoice = iota
	None
	Zstd
	S2
)

var choiceNames = [...]string{Auto: "auto", None: "none", Zstd: "zstd", S2: "s2"}

func (c CodecChoice) String() string {
	if int(c) < len(choiceNames) {
		return choiceNames[c]
	}
	return fmt.Sprintf("codec choice %d", uint8(c))
}

// ParseCodec reads auto, none, zstd or s2.
func ParseCodec(text string) (CodecChoice, error) {
	for c, name := range choiceNames {
		if text == name {
			return CodecChoice(c), nil
		}
	}
	return Auto, fmt.Errorf("unknown codec %q: want auto, none, zstd or s2", text)
}

// The zstd coders are shared: EncodeAll and DecodeAll are safe for concurrent
// use. Frames are no larger than MaxFrame, so is the window; and the content
// is hashed already, so zstd's own checksum is left out.
var (
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithWindowSize(MaxFrame), zstd.WithEncoderCRC(false))
	})
	zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderMaxWindow(MaxFrame),
			zstd.WithDecoderMaxMemory(MaxFrame), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderConcurrency(0))
	})
)

// compress returns src compressed in a new buffer, of which n bytes of content
// are used, or nil when that would not be smaller than src.
func compress(c Codec, src []byte) (*buffer, int, error) {
	var dst *buffer
	var out []byte
	switch c {
	case CodecZstd:
		enc, err := zstdEncoder()
		if err != nil {
			return nil, 0, fmt.Errorf("set up zstd: %w", err)
		}
		dst = getBuffer(enc.MaxEncodedSize(len(src)))
		out = enc.EncodeAll(src, dst.content()[:0])
	case CodecS2:
		dst = getBuffer(s2.MaxEncodedLen(len(src)))
		out = s2.Encode(dst.content(), src)
	default:
		return nil, 0, nil
	}
	if len(out) >= len(src) || len(out) == 0 {
		dst.release()
		return nil, 0, nil
	}
	if &out[0] != &dst.content()[0] {
		copy(dst.content(), out)
	}
	return dst, len(out), nil
}

// decompress returns exactly raw bytes in a new buffer. Neither memory nor
// work goes beyond raw, whatever src claims.
func decompress(c Codec, src []byte, raw int) (*buffer, error) {
	dst := getBuffer(raw)
	n, err := decompressInto(c, dst.content()[:0:raw], src)
	if err == nil && n != raw {
		err = protocolErrorf("DATA: %v content decompresses to %d bytes, %d declared", c, n, raw)
	}
	if err != nil {
		dst.release()
		return nil, err
	}
	return dst, nil
}

// decompressInto decompresses to the capacity of dst, which has no length, and
// returns how many bytes came out.
func decompressInto(c Codec, dst, src []byte) (int, error) {
	switch c {
	case CodecZstd:
		dec, err := zstdDecoder()
		if err != nil {
			return 0, fmt.Errorf("set up zstd: %w", err)
		}
		out, err := dec.DecodeAll(src, dst)
		if err != nil {
			return 0, protocolErrorf("DATA: zstd: %v", err)
		}
		return copy(dst[:cap(dst)], out), nil
	case CodecS2:
		n, err := s2.DecodedLen(src)
		if err != nil {
			return 0, protocolErrorf("DATA: s2: %v", err)
		}
		if n != cap(dst) {
			return n, nil
		}
		if _, err := s2.Decode(dst[:n], src); err != nil {
			return 0, protocolErrorf("DATA: s2: %v", err)
		}
		return n, nil
	default:
		return 0, protocolErrorf("DATA: unknown codec %d", c)
	}
}
