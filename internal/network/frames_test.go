package network

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"
)

func TestEncodeFrames(t *testing.T) {
	frames := []Frame{
		{"eth0", [VNetLen]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, bytes.Repeat([]byte{7}, 14)},
		{"123456789012345", [VNetLen]byte{}, bytes.Repeat([]byte{8}, MaxFrame)},
	}
	b := EncodeFrames([]byte("before"), frames[:1])
	want := append([]byte("before\x01\x04eth0\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0e"), frames[0].Data...)
	if !bytes.Equal(b, want) {
		t.Errorf("encoded %x, want %x", b, want)
	}
	for n := range len(frames) + 1 {
		got, err := DecodeFrames(EncodeFrames(nil, frames[:n]))
		check(t, err)
		if len(got) != n || n > 0 && !reflect.DeepEqual(got, frames[:n]) {
			t.Errorf("decoded %d frames: %v", n, got)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := EncodeFrames(nil, []Frame{{"eth0", [VNetLen]byte{}, make([]byte, 14)}})
	if _, err := DecodeFrames(good); err != nil {
		t.Fatal(err)
	}
	long := EncodeFrames(nil, []Frame{{"eth0", [VNetLen]byte{}, make([]byte, MaxFrame+1)}})
	for name, b := range map[string][]byte{
		"nothing":        nil,
		"more":           append(bytes.Clone(good), 0),
		"short frame":    EncodeFrames(nil, []Frame{{"eth0", [VNetLen]byte{}, make([]byte, 13)}}),
		"long frame":     long,
		"no name":        EncodeFrames(nil, []Frame{{"", [VNetLen]byte{}, make([]byte, 14)}}),
		"long name":      EncodeFrames(nil, []Frame{{"1234567890123456", [VNetLen]byte{}, make([]byte, 14)}}),
		"path as name":   EncodeFrames(nil, []Frame{{"../eth0", [VNetLen]byte{}, make([]byte, 14)}}),
		"number too big": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
		"endless number": bytes.Repeat([]byte{0xff}, 20),
		"long batch":     make([]byte, MaxEncoded+1),
	} {
		if frames, err := DecodeFrames(b); !errors.Is(err, ErrFrames) {
			t.Errorf("%s: %v, %v", name, frames, err)
		}
	}
	for n := range good {
		if _, err := DecodeFrames(good[:n]); !errors.Is(err, ErrFrames) {
			t.Errorf("the first %d of %d bytes were taken: %v", n, len(good), err)
		}
	}
}

func TestFramesAsAStream(t *testing.T) {
	batches := [][]Frame{
		{{"eth0", [VNetLen]byte{}, make([]byte, 14)}},
		{},
		{{"eth0", [VNetLen]byte{}, make([]byte, 15)}, {"eth1", [VNetLen]byte{}, make([]byte, 16)}},
	}
	var stream bytes.Buffer
	for _, b := range batches {
		check(t, WriteFrames(&stream, b))
	}
	whole := bytes.Clone(stream.Bytes())
	for _, want := range batches {
		got, err := ReadFrames(&stream)
		check(t, err)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("read %v, want %v", got, want)
		}
	}
	if got, err := ReadFrames(&stream); err != io.EOF {
		t.Errorf("at the end: %v, %v", got, err)
	}
	first := 4 + int(whole[3])
	for n := 1; n < first; n++ {
		if _, err := ReadFrames(bytes.NewReader(whole[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("a stream that ends after %d bytes: %v", n, err)
		}
	}
	if _, err := ReadFrames(bytes.NewReader([]byte{0, 0x10, 0, 1})); !errors.Is(err, ErrFrames) {
		t.Errorf("a batch that is too long: %v", err)
	}
	long := make([]Frame, MaxEncoded/MaxFrame+1)
	for i := range long {
		long[i] = Frame{"eth0", [VNetLen]byte{}, make([]byte, MaxFrame)}
	}
	if err := WriteFrames(&stream, long); !errors.Is(err, ErrFrames) || stream.Len() > 0 {
		t.Errorf("write a batch that is too long: %v", err)
	}
}

func FuzzDecodeFrames(f *testing.F) {
	f.Add(EncodeFrames(nil, nil))
	f.Add(EncodeFrames(nil, []Frame{{"eth0", [VNetLen]byte{1, 1}, make([]byte, 100)}, {"eth1", [VNetLen]byte{}, make([]byte, 14)}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		frames, err := DecodeFrames(b)
		if err != nil {
			if !errors.Is(err, ErrFrames) || frames != nil {
				t.Errorf("got %v, %v", frames, err)
			}
			return
		}
		again, err := DecodeFrames(EncodeFrames(nil, frames))
		if err != nil || !reflect.DeepEqual(again, frames) {
			t.Errorf("%v came back as %v, %v", frames, again, err)
		}
		for _, frame := range frames {
			h, err := testPort.check(frame)
			if err != nil {
				continue
			}
			if int(h.headerLen) > len(frame.Data) || h.flags != 0 && int(h.csumStart)+int(h.csumOffset)+2 > len(frame.Data) {
				t.Errorf("header %+v for %d bytes", h, len(frame.Data))
			}
		}
	})
}
