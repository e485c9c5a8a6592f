package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of what is kept and sent.
const (
	// MaxFrame is the most bytes that a frame may have: what segmentation and receive offload make of a packet at most,
	// and its link layer's header.
	MaxFrame = 64<<10 + 64
	// MaxEncoded is the most bytes that an encoded batch may have.
	MaxEncoded = 1 << 20

	batchBytes  = 256 << 10 // after which Next ends a batch
	batchFrames = 1024
)

// VNetLen is the length of the header that a packet socket puts in front of a frame, struct virtio_net_hdr.
const VNetLen = 10

// Frame is a link layer frame that came in, with what the kernel has to know of its checksum and segments.
type Frame struct {
	Interface string // its name inside the container
	VNet      [VNetLen]byte
	Data      []byte
}

// ErrFrames is a batch that is not as EncodeFrames makes it.
var ErrFrames = errors.New("malformed batch of frames")

// EncodeFrames appends a batch to b: the number of frames, then for each its interface, the header, and the data, both
// preceded by their length. Lengths and number are varints. A batch of Next is never longer than MaxEncoded.
func EncodeFrames(b []byte, frames []Frame) []byte {
	b = binary.AppendUvarint(b, uint64(len(frames)))
	for _, f := range frames {
		b = binary.AppendUvarint(b, uint64(len(f.Interface)))
		b = append(b, f.Interface...)
		b = append(b, f.VNet[:]...)
		b = binary.AppendUvarint(b, uint64(len(f.Data)))
		b = append(b, f.Data...)
	}
	return b
}

// DecodeFrames is the reverse of EncodeFrames. The frames share b's memory. Whether they make sense as frames is for
// Inject to judge.
func DecodeFrames(b []byte) ([]Frame, error) {
	if len(b) > MaxEncoded {
		return nil, fmt.Errorf("%w: %d bytes", ErrFrames, len(b))
	}
	d := decoder{b}
	const shortest = 1 + 1 + VNetLen + 1 + etherLen
	n, err := d.length(len(b) / shortest)
	if err != nil {
		return nil, fmt.Errorf("%w: number of frames: %w", ErrFrames, err)
	}
	frames := make([]Frame, n)
	for i := range frames {
		if err := d.frame(&frames[i]); err != nil {
			return nil, fmt.Errorf("%w: frame %d of %d: %w", ErrFrames, i, n, err)
		}
	}
	if len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes too many", ErrFrames, len(d.rest))
	}
	return frames, nil
}

// WriteFrames writes a batch to a stream of several, preceded by its length in four bytes, most significant first. It
// calls Write once.
func WriteFrames(w io.Writer, frames []Frame) error {
	b := EncodeFrames(make([]byte, lengthLen), frames)
	if len(b)-lengthLen > MaxEncoded {
		return fmt.Errorf("write batch of frames: %w: %d bytes", ErrFrames, len(b)-lengthLen)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-lengthLen))
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("write batch of frames: %w", err)
	}
	return nil
}

// ReadFrames reads what WriteFrames wrote, or returns io.EOF where the stream ends between two batches.
func ReadFrames(r io.Reader) ([]Frame, error) {
	var length [lengthLen]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		return nil, fmt.Errorf("read batch of frames: %w", err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > MaxEncoded {
		return nil, fmt.Errorf("read batch of frames: %w: %d bytes", ErrFrames, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read batch of frames: %w", err)
	}
	return DecodeFrames(b)
}

const lengthLen = 4

type decoder struct{ rest []byte }

func (d *decoder) frame(f *Frame) error {
	name, err := d.field(1, unix.IFNAMSIZ-1)
	if err != nil {
		return fmt.Errorf("interface: %w", err)
	}
	f.Interface = string(name)
	if !interfaceName(f.Interface) {
		return fmt.Errorf("interface: %q is no name", f.Interface)
	}
	header, err := d.take(VNetLen)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	f.VNet = [VNetLen]byte(header)
	if f.Data, err = d.field(etherLen, MaxFrame); err != nil {
		return fmt.Errorf("data: %w", err)
	}
	return nil
}

// field reads bytes that are preceded by their length.
func (d *decoder) field(least, most int) ([]byte, error) {
	n, err := d.length(most)
	if err != nil {
		return nil, err
	}
	if n < least {
		return nil, fmt.Errorf("length %d is less than %d", n, least)
	}
	return d.take(n)
}

func (d *decoder) length(most int) (int, error) {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		return 0, errors.New("no length")
	}
	if v > uint64(most) {
		return 0, fmt.Errorf("length %d is more than %d", v, most)
	}
	d.rest = d.rest[n:]
	return int(v), nil
}

func (d *decoder) take(n int) ([]byte, error) {
	if n > len(d.rest) {
		return nil, fmt.Errorf("%d bytes are missing", n-len(d.rest))
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b, nil
}

// interfaceName is as dev_valid_name of net/core/dev.c.
func interfaceName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) < unix.IFNAMSIZ && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00")
}
