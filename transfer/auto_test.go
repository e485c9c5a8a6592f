package transfer

import (
	"testing"
	"time"
)

func TestChooseCodec(t *testing.T) {
	const mb = 1 << 20
	good := [codecCount]codecMeasure{CodecS2: {0.5, 1000 * mb}, CodecZstd: {0.3, 300 * mb}}
	for _, c := range []struct {
		name string
		m    measures
		want Codec
	}{
		{"nothing known", measures{}, CodecNone},
		{"link not known yet", measures{0, good}, CodecS2},
		{"slow link", measures{10 * mb, good}, CodecZstd},
		{"gigabit", measures{110 * mb, good}, CodecZstd},
		{"link faster than zstd", measures{400 * mb, good}, CodecS2},
		{"link faster than s2", measures{2000 * mb, good}, CodecNone},
		{"nothing to gain", measures{10 * mb, [codecCount]codecMeasure{CodecS2: {1, 900 * mb}, CodecZstd: {0.95, 300 * mb}}}, CodecNone},
		{"only zstd gains", measures{10 * mb, [codecCount]codecMeasure{CodecS2: {0.99, 900 * mb}, CodecZstd: {0.6, 300 * mb}}}, CodecZstd},
		{"hardly better is not worth it", measures{100 * mb, [codecCount]codecMeasure{CodecS2: {0.5, 900 * mb}, CodecZstd: {0.49, 900 * mb}}}, CodecS2},
	} {
		if got := chooseCodec(c.m); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestFixedChoice(t *testing.T) {
	for choice, want := range map[CodecChoice]Codec{None: CodecNone, Zstd: CodecZstd, S2: CodecS2} {
		c := chooser{choice: choice}
		for range 100 {
			if got := c.next(1); got != want {
				t.Fatalf("%v picked %v", choice, got)
			}
		}
	}
}

// tried simulates a stream and counts the codecs it tries.
func tried(link float64, ratio, speed [codecCount]float64, frames int) (n [codecCount]int) {
	var c chooser
	const raw = 1 << 18
	for range frames {
		codec := c.next(link)
		n[codec]++
		wire := int(ratio[codec] * raw)
		c.learn(codec, raw, wire, time.Duration(raw/speed[codec]*float64(time.Second)))
	}
	return n
}

func TestAutoSettles(t *testing.T) {
	speed := [codecCount]float64{1: 300e6, 2: 1e9}
	if n := tried(100e6, [codecCount]float64{1, 1, 1}, speed, 1000); n[CodecNone] < 950 {
		t.Errorf("incompressible content: %v", n)
	}
	if n := tried(100e6, [codecCount]float64{1, 0.3, 0.5}, speed, 1000); n[CodecZstd] < 900 {
		t.Errorf("compressible content on a slow link: %v", n)
	}
	if n := tried(5e9, [codecCount]float64{1, 0.3, 0.5}, speed, 1000); n[CodecNone] < 900 {
		t.Errorf("compressible content on a very fast link: %v", n)
	}
}

func TestNextRate(t *testing.T) {
	for _, c := range []struct {
		old      uint64
		measured float64
		want     uint64
	}{{0, 1000, 1000}, {1000, 200, 200}, {1000, 1020, 1020}, {1000, 9000, 1050}} {
		if got := nextRate(c.old, c.measured); got != c.want {
			t.Errorf("nextRate(%d, %v) = %d, want %d", c.old, c.measured, got, c.want)
		}
	}
}

func TestParseCodec(t *testing.T) {
	for _, c := range []CodecChoice{Auto, None, Zstd, S2} {
		if got, err := ParseCodec(c.String()); err != nil || got != c {
			t.Errorf("%v: %v, %v", c, got, err)
		}
	}
	if _, err := ParseCodec("gzip"); err == nil {
		t.Error("gzip is taken for a codec")
	}
}

// A stream that knows the link better than its lane does is believed, within the cap.
func TestRateOfStream(t *testing.T) {
	l := &lane{}
	l.count.rate.Store(1 << 30)
	w := &StreamWriter{s: &Session{limit: newBucket(0, time.Now)}, l: l}
	if got := w.linkRate(); got != 1<<30 {
		t.Errorf("the lane's rate is %v", got)
	}
	w.rate = func() float64 { return 12.5e6 }
	if got := w.linkRate(); got != 12.5e6 {
		t.Errorf("the stream's own rate is %v", got)
	}
	w.s.limit.setRate(1e6)
	if got := w.linkRate(); got != 1e6 {
		t.Errorf("with a cap the rate is %v", got)
	}
}
