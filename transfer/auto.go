package transfer

import "time"

// Numbers behind the automatic choice of a codec.
const (
	// minGain is what a codec has to take off for a frame to count as
	// compressible.
	minGain = 0.08
	// probeEvery is how many frames pass between two tries of a codec that is
	// not in use; contents and links change.
	probeEvery = 32
	// margin is how much faster a costlier codec has to be to be chosen.
	margin = 1.05
	// meterBytes is how much a lane sends between two estimates of its rate.
	meterBytes = 2 << 20
	// maxRise bounds how fast an estimate of a lane's rate grows. A lane that
	// is not kept busy looks faster than it is, since buffers take all it is
	// given; a slow rise makes it be tried out now and then instead of often.
	maxRise = 1.05
)

// codecMeasure is what is known of one codec on one stream.
type codecMeasure struct {
	ratio float64 // compressed size over raw size; 0 is not known
	speed float64 // raw bytes per second
}

// measures is what the choice of a codec rests on.
type measures struct {
	link   float64 // bytes per second the lane can carry; 0 is not known
	codecs [codecCount]codecMeasure
}

// chooseCodec picks the codec that gets most raw bytes through. Compressing
// and sending overlap, so the slower of the two sets the pace. Cheaper codecs
// win ties.
func chooseCodec(m measures) Codec {
	best, pace := CodecNone, m.link
	for _, c := range [...]Codec{CodecS2, CodecZstd} {
		k := m.codecs[c]
		if k.ratio == 0 || k.ratio > 1-minGain {
			continue
		}
		if m.link == 0 {
			// Nothing sent yet: any gain is taken, at the lowest cost.
			return c
		}
		if p := min(k.speed, m.link/k.ratio); p > pace*margin {
			best, pace = c, p
		}
	}
	return best
}

// chooser picks the codec of each frame of one stream.
type chooser struct {
	choice CodecChoice
	m      measures
	frames uint32
}

// next is the codec to try on the next frame of a lane of the given rate.
func (c *chooser) next(link float64) Codec {
	switch c.choice {
	case None:
		return CodecNone
	case Zstd:
		return CodecZstd
	case S2:
		return CodecS2
	}
	c.frames++
	switch c.frames % probeEvery {
	case 1:
		return CodecS2
	case 2:
		// What s2 cannot shrink at all, zstd hardly does: look less often.
		if c.m.codecs[CodecS2].ratio < 1 || c.frames%(4*probeEvery) == 2 {
			return CodecZstd
		}
	}
	c.m.link = link
	return chooseCodec(c.m)
}

// learn takes in what compressing a frame with codec came to. wire is raw
// when it did not get smaller.
func (c *chooser) learn(codec Codec, raw, wire int, took time.Duration) {
	if c.choice != Auto || codec == CodecNone {
		return
	}
	k := &c.m.codecs[codec]
	blend(&k.ratio, float64(wire)/float64(raw))
	blend(&k.speed, float64(raw)/max(took.Seconds(), 1e-9))
}

// blend moves an average half way to a new value.
func blend(avg *float64, v float64) {
	if *avg == 0 {
		*avg = v
		return
	}
	*avg = (*avg + v) / 2
}

// rateMeter gathers how long a lane's writes took.
type rateMeter struct {
	bytes int
	busy  time.Duration
}

// add takes in one write; every meterBytes it returns a rate.
func (m *rateMeter) add(n int, took time.Duration) (bytesPerSecond float64, ok bool) {
	m.bytes += n
	m.busy += took
	if m.bytes < meterBytes {
		return 0, false
	}
	rate := float64(m.bytes) / max(m.busy.Seconds(), 1e-9)
	*m = rateMeter{}
	return rate, true
}

// nextRate is the new estimate of a lane's rate: down at once, up slowly.
func nextRate(old uint64, measured float64) uint64 {
	if old == 0 {
		return uint64(measured)
	}
	return uint64(min(measured, float64(old)*maxRise))
}
