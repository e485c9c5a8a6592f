package lan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// A Rate is the speed of a link in bits a second, each way. Zero is no limit.
type Rate uint64

const (
	kbit Rate = 1000
	mbit      = 1000 * kbit
	gbit      = 1000 * mbit
)

var rateUnits = []struct {
	suffix string
	unit   Rate
}{{"gbit", gbit}, {"mbit", mbit}, {"kbit", kbit}}

// maxRate is the highest rate that a 32-bit number of bytes a second can say.
const maxRate = 32 * gbit

// ParseRate reads "none", "100mbit", "10gbit".
func ParseRate(text string) (Rate, error) {
	if text == "" || text == "none" {
		return 0, nil
	}
	for _, u := range rateUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil || n == 0 || Rate(n) > maxRate/u.unit {
			break
		}
		return Rate(n) * u.unit, nil
	}
	return 0, fmt.Errorf("link rate %q: want none, or a rate such as 100mbit or 10gbit (at most %s)", text, maxRate)
}

func (r Rate) String() string {
	if r == 0 {
		return "none"
	}
	for _, u := range rateUnits {
		if r%u.unit == 0 {
			return strconv.FormatUint(uint64(r/u.unit), 10) + u.suffix
		}
	}
	return strconv.FormatUint(uint64(r), 10) + "bit"
}

// The token bucket's measures. The bucket must hold what arrives between two
// looks of the kernel at the queue, or fast links stay below their rate; the queue
// is short, because a long one would turn every bulk transfer into delay.
const (
	bucketMillis = 2
	queueMillis  = 20
	minBucket    = 64 << 10  // one packet with segmentation offload
	minQueue     = 256 << 10 // several of them
)

func (r Rate) bucket() uint32 { return r.bytesIn(bucketMillis, minBucket) }
func (r Rate) queue() uint32  { return r.bytesIn(queueMillis, minQueue) }

func (r Rate) bytesIn(millis, atLeast uint64) uint32 {
	return uint32(max(uint64(r)/8/1000*millis, atLeast))
}

// SetRate limits the port in both directions: what the switch sends to the host,
// and what the host sends.
func (p Port) SetRate(rate Rate) error {
	ends := []struct {
		pid  int
		link string
	}{{p.SwitchPID, p.name()}, {p.HostPID, hostLink}}
	for _, end := range ends {
		err := inside(end.pid, func(h *netlink.Handle) error { return shape(h, end.link, rate) })
		if err != nil {
			return fmt.Errorf("set the rate of %s to %s: %w", p.name(), rate, err)
		}
	}
	return nil
}

func shape(h *netlink.Handle, name string, rate Rate) error {
	link, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	attrs := netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index,
		Handle:    netlink.MakeHandle(1, 0),
		Parent:    netlink.HANDLE_ROOT,
	}
	if rate == 0 {
		err := h.QdiscDel(&netlink.GenericQdisc{QdiscAttrs: attrs, QdiscType: "tbf"})
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EINVAL) {
			return nil // there was no limit
		}
		return err
	}
	bytes := uint64(rate) / 8
	return h.QdiscReplace(&netlink.Tbf{
		QdiscAttrs: attrs,
		Rate:       bytes,
		Limit:      rate.queue(),
		Buffer:     netlink.Xmittime(bytes, rate.bucket()),
	})
}
