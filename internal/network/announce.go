package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// repeats are when AnnounceRepeat sends again, counted from its first frames: such frames are not acknowledged, and a
// switch port or a tunnel may come up later than the interface behind it.
var repeats = []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second}

// An Announcer sends the announcements of a namespace's interfaces as they were when it was made. It keeps the
// namespace alive until Close.
type Announcer struct {
	netns  string
	socket int
	frames []frame
}

type frame struct {
	index int // of the interface
	bytes []byte
}

// NewAnnouncer does all that can be done ahead, so that Send costs microseconds.
func NewAnnouncer(netns string) (*Announcer, error) {
	a := &Announcer{netns: netns, socket: -1}
	if err := Do(netns, a.prepare); err != nil {
		return nil, fmt.Errorf("prepare announcements in %s: %w", netns, err)
	}
	return a, nil
}

// Announce sends, once, an announcement of each address that an Ethernet interface has, if it is up: for IPv4
// gratuitous ARP, request and reply, for global IPv6 addresses an unsolicited neighbour advertisement.
func Announce(netns string) error {
	a, err := NewAnnouncer(netns)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Send()
}

// AnnounceRepeat is Announce, and sends the same again in the background a few times within a second, or until the
// context ends. It is the one to use on an interface that has just come up: until the kernel has noticed the carrier, a
// few milliseconds, it drops frames without an error.
func AnnounceRepeat(ctx context.Context, netns string) error {
	a, err := NewAnnouncer(netns)
	if err != nil {
		return err
	}
	if err := a.Send(); err != nil {
		a.Close()
		return err
	}
	go a.repeat(ctx, time.Now())
	return nil
}

// Send sends all frames once, without waiting for a queue that is full. A frame that cannot be sent keeps no other
// from being sent; behind a shut NewLock none can.
func (a *Announcer) Send() error {
	var errs []error
	for _, f := range a.frames {
		to := &unix.SockaddrLinklayer{Ifindex: f.index}
		if err := unix.Sendto(a.socket, f.bytes, unix.MSG_DONTWAIT, to); err != nil {
			errs = append(errs, fmt.Errorf("announce on interface %d of %s: %w", f.index, a.netns, err))
		}
	}
	return errors.Join(errs...)
}

// Close lets go of the namespace. The kernel closes a packet socket only after a grace period of some milliseconds,
// which Close does not wait for.
func (a *Announcer) Close() {
	socket := a.socket
	a.socket = -1
	if socket >= 0 {
		go unix.Close(socket)
	}
}

func (a *Announcer) prepare() error {
	list, err := interfaces()
	if err != nil {
		return err
	}
	for _, itf := range list {
		for _, b := range announcements(itf) {
			a.frames = append(a.frames, frame{itf.Index, b})
		}
	}
	if len(a.frames) == 0 {
		return nil
	}
	// Protocol 0: a socket that only sends.
	a.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	return nil
}

// repeat has nobody to report an error to; that sending is possible was seen by its caller.
func (a *Announcer) repeat(ctx context.Context, first time.Time) {
	defer a.Close()
	for _, after := range repeats {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(first.Add(after))):
			_ = a.Send()
		}
	}
}
