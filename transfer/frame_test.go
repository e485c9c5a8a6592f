package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// appendFrame appends a frame as it goes over the wire.
func appendFrame(dst []byte, h header, payload []byte) []byte {
	var head [headerSize]byte
	h.put(head[:])
	return append(append(dst, head[:]...), payload...)
}

func dataFrame(codec Codec, placed bool, off uint64, raw int, content []byte) []byte {
	if placed {
		content = append(be64(off), content...)
	}
	return appendFrame(nil, header{kind: frameData, codec: codec, placed: placed, stream: 17, wire: uint32(len(content)), raw: uint32(raw)}, content)
}

// goldenS2 is 64 zero bytes in s2, goldenZstd in zstd: written down, since
// encoders may change their output and the format may not.
var (
	goldenS2   = []byte{0x40, 0x00, 0x00, 0xfa, 0x01, 0x00}
	goldenZstd = []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x40, 0x03, 0x02, 0x00, 0x00}
)

// goldens are the exact bytes of every sort of frame and preface.
func goldens() map[string][]byte {
	hash := bytes.Repeat([]byte{0xab}, hashSize)
	return map[string][]byte{
		"control":          plainFrame(frameControl, 0, be16(0x0102), []byte("hello")),
		"open":             plainFrame(frameOpen, 17, be16(0x0304), []byte("meta")),
		"data_plain":       dataFrame(CodecNone, false, 0, 4, []byte("data")),
		"data_placed":      dataFrame(CodecNone, true, 0x1000, 4, []byte("data")),
		"data_s2":          dataFrame(CodecS2, false, 0, 64, goldenS2),
		"data_zstd_placed": dataFrame(CodecZstd, true, 0x1000, 64, goldenZstd),
		"close":            plainFrame(frameClose, 17, be64(4), hash),
		"reset":            plainFrame(frameReset, 17, be16(9)),
		"ping":             plainFrame(framePing, 0, be64(0x0102030405060708)),
		"pong":             plainFrame(framePong, 0, be64(0x0102030405060708)),
		"bye":              plainFrame(frameBye, 0),
		"preface_source":   goldenPreface(Source).bytes(),
		"preface_answer":   goldenPreface(Destination).bytes(),
		"preface_refusal":  preface{versions: VersionRange{1, 1}, status: statusTokenUsed, role: Destination, lanes: 4, deadAfter: 10000}.bytes(),
	}
}

func goldenPreface(role Role) preface {
	p := preface{versions: VersionRange{1, 1}, role: role, lanes: 4, deadAfter: 10000}
	for i := range p.session {
		p.session[i] = byte(i)
	}
	if role == Source {
		p.flags = prefaceProof
		copy(p.tokenID[:], bytes.Repeat([]byte{0xcc}, tokenIDSize))
		copy(p.proof[:], bytes.Repeat([]byte{0xdd}, proofSize))
		return p
	}
	p.chosen = 1
	copy(p.join[:], bytes.Repeat([]byte{0xee}, joinSize))
	return p
}

func goldenPath(name string) string { return filepath.Join("testdata", name+".bin") }

func TestGolden(t *testing.T) {
	for name, got := range goldens() {
		if *update {
			must(t, os.WriteFile(goldenPath(name), got, 0o644))
		}
		want, err := os.ReadFile(goldenPath(name))
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("%s is now\n%x, the protocol has\n%x", name, got, want)
		}
	}
}

func TestGoldenFramesDecode(t *testing.T) {
	var head [headerSize]byte
	for name, b := range goldens() {
		if len(b) == prefaceSize {
			if p, err := parsePreface(b); err != nil || !bytes.Equal(p.bytes(), b) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		f, err := readFrame(bytes.NewReader(b), &head)
		must(t, err)
		if got := appendFrame(nil, f.header, f.payload()); !bytes.Equal(got, b) {
			t.Errorf("%s becomes %x", name, got)
		}
		if f.codec == CodecNone {
			continue
		}
		_, content, err := splitData(f.header, f.payload())
		must(t, err)
		out, err := decompress(f.codec, content, int(f.raw))
		if err != nil || !bytes.Equal(out.content()[:64], make([]byte, 64)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadHeaders(t *testing.T) {
	type edit func(h *header)
	data := header{kind: frameData, stream: 16, wire: 100, raw: 100}
	for name, c := range map[string]struct {
		base   header
		change edit
		want   error
	}{
		"type 0":              {data, func(h *header) { h.kind = 0 }, ErrProtocol},
		"type 9":              {data, func(h *header) { h.kind = 9 }, ErrProtocol},
		"codec 3":             {data, func(h *header) { h.codec, h.wire = 3, 50 }, ErrProtocol},
		"empty data":          {data, func(h *header) { h.raw, h.wire = 0, 0 }, ErrProtocol},
		"huge data":           {data, func(h *header) { h.raw, h.wire = MaxFrame+1, MaxFrame+1 }, ErrLimit},
		"plain but shorter":   {data, func(h *header) { h.wire = 99 }, ErrProtocol},
		"compressed, larger":  {data, func(h *header) { h.codec, h.wire = CodecS2, 100 }, ErrProtocol},
		"compressed, nothing": {data, func(h *header) { h.codec, h.wire = CodecS2, 0 }, ErrProtocol},
		"no room for offset":  {data, func(h *header) { h.placed, h.wire = true, 7 }, ErrProtocol},
		"4 GiB wire":          {data, func(h *header) { h.wire = 1<<32 - 1 }, ErrProtocol},
		"huge control":        {header{kind: frameControl}, func(h *header) { h.wire, h.raw = 1<<32-1, 1<<32-1 }, ErrLimit},
		"short control":       {header{kind: frameControl}, func(h *header) { h.wire, h.raw = 1, 1 }, ErrProtocol},
		"placed control":      {header{kind: frameControl, wire: 9, raw: 9}, func(h *header) { h.placed = true }, ErrProtocol},
		"control of a stream": {header{kind: frameControl, wire: 9, raw: 9}, func(h *header) { h.stream = 1 }, ErrProtocol},
		"huge meta":           {header{kind: frameOpen}, func(h *header) { h.wire, h.raw = MaxMeta+3, MaxMeta+3 }, ErrLimit},
		"short close":         {header{kind: frameClose}, func(h *header) { h.wire, h.raw = closeSize-1, closeSize-1 }, ErrProtocol},
		"bye with content":    {header{kind: frameBye}, func(h *header) { h.wire, h.raw = 1, 1 }, ErrLimit},
		"raw differs":         {header{kind: framePing, wire: 8}, func(h *header) { h.raw = 9 }, ErrProtocol},
	} {
		h := c.base
		c.change(&h)
		var b [headerSize]byte
		h.put(b[:])
		if _, err := parseHeader(b[:]); !errors.Is(err, c.want) || !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, i := range []int{1, 2, 3} {
		b := plainFrame(frameBye, 0)
		b[i] = 0x80
		if _, err := parseHeader(b); !errors.Is(err, ErrProtocol) {
			t.Errorf("reserved byte %d: %v", i, err)
		}
	}
}

func TestDecompressionIsBounded(t *testing.T) {
	bomb := make([]byte, 16<<20)
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	for name, src := range map[string][]byte{
		"zstd bomb":      enc.EncodeAll(bomb, nil),
		"two frames":     append(enc.EncodeAll(bomb[:1000], nil), enc.EncodeAll(bomb[:1000], nil)...),
		"too short":      enc.EncodeAll(bomb[:999], nil),
		"not compressed": []byte("plain text"),
	} {
		if _, err := decompress(CodecZstd, src, 1000); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// s2 content that says it is 1 GiB.
	if _, err := decompress(CodecS2, []byte{0x80, 0x80, 0x80, 0x80, 0x04, 0}, 1000); !errors.Is(err, ErrProtocol) {
		t.Errorf("s2 bomb: %v", err)
	}
}

func TestCompressRoundTrip(t *testing.T) {
	for _, codec := range []Codec{CodecZstd, CodecS2} {
		for _, n := range []int{1000, 4096, 256 << 10, MaxFrame} {
			b, size, err := compress(codec, text(n))
			must(t, err)
			if b == nil || size >= n {
				t.Fatalf("%v: %d bytes of text do not shrink", codec, n)
			}
			out, err := decompress(codec, b.content()[:size], n)
			must(t, err)
			if !bytes.Equal(out.content()[:n], text(n)) {
				t.Errorf("%v: %d bytes come back changed", codec, n)
			}
		}
		if b, _, err := compress(codec, noise(4096)); b != nil || err != nil {
			t.Errorf("%v: noise shrinks (%v)", codec, err)
		}
	}
}

// recording is all that a source sends in a short session, from its preface on.
func recording(t testing.TB) []byte {
	var sent bytes.Buffer
	toDst, fromSrc := io.Pipe()
	toSrc, fromDst := io.Pipe()
	quiet := Options{Keepalive: patience, DeadAfter: 4 * patience}
	a, b := openPair(t, toSrc, fromSrc, io.TeeReader(toDst, &sent), fromDst, quiet, quiet)
	ctx := testContext(t)
	for i, choice := range []CodecChoice{None, Zstd, S2} {
		w, err := a.OpenStream(ctx, uint16(i), nil, StreamOptions{Codec: choice})
		must(t, err)
		if i == 1 {
			must(t, w.Place(text(200), 4096))
		} else {
			_, err = w.Write(text(200))
			must(t, err)
		}
		must(t, w.Close())
	}
	var g testGroup
	g.run(func() error { return errors.Join(consume(b), b.Close()) })
	g.run(a.Close)
	g.wait(t)
	return sent.Bytes()
}

// consume reads a session to its clean end.
func consume(s *Session) error {
	for {
		r, err := s.Accept(context.Background())
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for err == nil {
			_, _, _, err = r.Next()
		}
		if err != io.EOF {
			return err
		}
	}
}

// replay lets a destination read a recording and reports how that ends.
func replay(t testing.TB, rec []byte) error {
	s, err := Stdio(testContext(t), bytes.NewReader(rec), io.Discard, Destination, Options{})
	if err != nil {
		return err
	}
	err = consume(s)
	return errors.Join(err, s.Close())
}

func TestDamageIsNoticed(t *testing.T) {
	rec := recording(t)
	must(t, replay(t, rec))
	free := freeBytes(rec)
	for i := prefaceSize; i < len(rec); i++ {
		for _, bit := range []byte{0x01, 0x04, 0x80} {
			bad := bytes.Clone(rec)
			bad[i] ^= bit
			if err := replay(t, bad); err == nil {
				if free[i] {
					continue
				}
				t.Errorf("byte %d (%#x): bit %#x flipped unnoticed", i, rec[i], bit)
			} else if !errors.Is(err, ErrProtocol) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("byte %d: %v", i, err)
			}
		}
	}
}

// freeBytes marks the bytes of a recording whose change the frame layer need
// not notice: the kind in OPEN, which only its users can judge, and compressed
// content, in which some bits mean nothing; what it expands to is hashed.
func freeBytes(rec []byte) map[int]bool {
	free := map[int]bool{}
	for at := prefaceSize; at < len(rec); {
		h, _ := parseHeader(rec[at:])
		end := at + headerSize + int(h.wire)
		for i := at + headerSize; i < end && (h.kind == frameOpen || h.codec != CodecNone); i++ {
			free[i] = true
		}
		at = end
	}
	return free
}

func TestEarlyEndIsNoticed(t *testing.T) {
	rec := recording(t)
	for n := range len(rec) {
		if err := replay(t, rec[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut to %d of %d bytes: %v", n, len(rec), err)
		}
	}
}

func TestTrailingBytesAreNoticed(t *testing.T) {
	rec := append(recording(t), 0)
	s, err := Stdio(testContext(t), bytes.NewReader(rec), io.Discard, Destination, Options{})
	must(t, err)
	go func() { _ = consume(s) }()
	select {
	case <-s.Done():
		mustBe(t, s.Err(), ErrProtocol)
	case <-testContext(t).Done():
		t.Error("bytes after BYE go unnoticed")
	}
}

func TestFramesOutOfPlace(t *testing.T) {
	head := goldenPreface(Source)
	head.lanes, head.flags, head.tokenID, head.proof = 1, 0, [tokenIDSize]byte{}, [proofSize]byte{}
	open := plainFrame(frameOpen, 16, be16(1))
	data := appendFrame(nil, header{kind: frameData, stream: 16, wire: 1, raw: 1}, []byte("x"))
	placed := appendFrame(nil, header{kind: frameData, placed: true, stream: 16, wire: 9, raw: 1}, make([]byte, 9))
	far := appendFrame(nil, header{kind: frameData, placed: true, stream: 16, wire: 9, raw: 1}, append(be64(1<<63-1), 0))
	reset := plainFrame(frameReset, 16, be16(1))
	for name, frames := range map[string][][]byte{
		"data without open":     {data},
		"close without open":    {plainFrame(frameClose, 16, make([]byte, closeSize))},
		"stream opened twice":   {open, open},
		"stream used again":     {open, reset, open},
		"data after reset":      {open, reset, data},
		"stream of other lane":  {plainFrame(frameOpen, 17, be16(1))},
		"bye with open stream":  {open, data, plainFrame(frameBye, 0)},
		"mixed":                 {open, data, placed},
		"offset out of range":   {open, far},
		"wrong length at close": {open, data, plainFrame(frameClose, 16, be64(2), make([]byte, hashSize))},
		"wrong hash at close":   {open, data, plainFrame(frameClose, 16, be64(1), make([]byte, hashSize))},
	} {
		rec := append(head.bytes(), bytes.Join(frames, nil)...)
		r, w := io.Pipe()
		go func() { _, _ = w.Write(rec) }()
		s, err := Stdio(testContext(t), r, io.Discard, Destination, Options{})
		must(t, err)
		go func() { _ = consume(s) }()
		select {
		case <-s.Done():
			if !errors.Is(s.Err(), ErrProtocol) {
				t.Errorf("%s: %v", name, s.Err())
			}
		case <-testContext(t).Done():
			t.Errorf("%s goes unnoticed", name)
		}
	}
}

func FuzzFrame(f *testing.F) {
	files, err := filepath.Glob(goldenPath("*"))
	must(f, err)
	for _, name := range files {
		b, err := os.ReadFile(name)
		must(f, err)
		f.Add(b)
	}
	f.Add(recordingForFuzz())
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePreface(b); err == nil && !bytes.Equal(p.bytes(), b) {
			t.Fatalf("preface becomes %x", p.bytes())
		}
		var head [headerSize]byte
		for r := bytes.NewReader(b); ; {
			at := len(b) - r.Len()
			frame, err := readFrame(r, &head)
			if err != nil {
				return
			}
			fuzzOne(t, frame, b[at:len(b)-r.Len()])
		}
	})
}

// fuzzOne checks a frame that was decoded from wire.
func fuzzOne(t *testing.T, f frame, wire []byte) {
	defer f.buf.release()
	if got := appendFrame(nil, f.header, f.payload()); !bytes.Equal(got, wire) {
		t.Fatalf("%x becomes %x", wire, got)
	}
	if f.buf != nil && len(f.buf.b) > MaxControl+headroom+kindSize {
		t.Fatalf("buffer of %d bytes", len(f.buf.b))
	}
	if f.kind != frameData {
		return
	}
	_, content, err := splitData(f.header, f.payload())
	if err != nil || f.codec == CodecNone {
		return
	}
	if out, err := decompress(f.codec, content, int(f.raw)); err == nil {
		if len(out.b) > bufferSizes[len(bufferSizes)-1] {
			t.Fatalf("decompressed into %d bytes", len(out.b))
		}
		out.release()
	}
}

// recordingForFuzz is several frames in a row.
func recordingForFuzz() []byte {
	var b []byte
	for name, g := range goldens() {
		if len(g) != prefaceSize {
			b = append(b, goldens()[name]...)
		}
	}
	return b
}
