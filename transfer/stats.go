package transfer

import (
	"sync/atomic"
	"time"
)

// Stats is a snapshot of what a session moved. Raw counts what callers gave
// and got; wire counts frames, headers included, without what TLS adds.
type Stats struct {
	RawSent, WireSent         uint64 // bytes
	RawReceived, WireReceived uint64 // bytes
	// Frames counts the DATA frames sent by codec.
	Frames map[Codec]uint64
	Lanes  []LaneStats
}

// LaneStats is the part of Stats of one lane.
type LaneStats struct {
	RawSent, WireSent         uint64 // bytes
	RawReceived, WireReceived uint64 // bytes
	// Rate is what the lane can carry, in bytes per second, as far as is known.
	Rate uint64
	// RTT is the time the last keepalive took there and back; 0 before the first.
	RTT time.Duration
}

// counters are a lane's running sums.
type counters struct {
	rawSent, wireSent atomic.Uint64
	rawRecv, wireRecv atomic.Uint64
	frames            [codecCount]atomic.Uint64
	rate              atomic.Uint64
	rtt               atomic.Int64
}

func (c *counters) sent(codec Codec, raw, wire int, data bool) {
	c.wireSent.Add(uint64(wire))
	c.rawSent.Add(uint64(raw))
	if data {
		c.frames[codec].Add(1)
	}
}

func (c *counters) received(h header) {
	c.wireRecv.Add(uint64(h.wire) + headerSize)
	if h.kind == frameData || h.kind == frameControl {
		c.rawRecv.Add(uint64(h.raw))
	}
}

// Stats returns the sums so far. It may be called at any time, also after the end.
func (s *Session) Stats() Stats {
	out := Stats{Frames: make(map[Codec]uint64, codecCount)}
	for _, l := range s.lanes {
		c := &l.count
		st := LaneStats{
			RawSent: c.rawSent.Load(), WireSent: c.wireSent.Load(),
			RawReceived: c.rawRecv.Load(), WireReceived: c.wireRecv.Load(),
			Rate: c.rate.Load(), RTT: time.Duration(c.rtt.Load()),
		}
		for codec := range c.frames {
			out.Frames[Codec(codec)] += c.frames[codec].Load()
		}
		out.RawSent += st.RawSent
		out.WireSent += st.WireSent
		out.RawReceived += st.RawReceived
		out.WireReceived += st.WireReceived
		out.Lanes = append(out.Lanes, st)
	}
	return out
}
