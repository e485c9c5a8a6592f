package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// receiveBuffer is what the kernel may hold for a Capture until it is read, in bytes of socket buffers.
const receiveBuffer = 64 << 20

// frameCost is what a kept frame takes beside its data, about, in bytes.
const frameCost = 128

// A Capture keeps the frames that come into a namespace, loopback excepted, also and above all those that a lock drops: a
// packet socket sees a frame before the lock does. Another place's Injector makes them arrive there, so that peers need
// not send them again.
//
// It is made early and costs nothing then; KeepNew goes with RefuseNew, Start with Shut. Only frames for the container
// count, on the Ethernet interfaces that there were when it was made, and without VLAN tags. It keeps the namespace alive
// until Close. Its methods may be called concurrently, Next by one goroutine at a time.
type Capture struct {
	netns string
	limit int64
	names map[int]string // of interfaces by index
	file  *os.File       // the packet socket
	conn  syscall.RawConn
	ended chan struct{} // closed when nothing is read any more
	news  chan struct{} // has room for one; filled when Next may find something

	mu      sync.Mutex
	frames  []Frame // those kept, in the order of arrival
	next    int     // the first of them that Next has not delivered
	held    int64   // what frames costs
	forget  bool
	stats   CaptureStats
	failure error
}

// CaptureStats says what a Capture did with what came.
type CaptureStats struct {
	Kept, KeptBytes int64
	// Dropped are frames for which there was no room, or which the kernel could not hand out. Of those for which the
	// kernel had no room the bytes are not known.
	Dropped, DroppedBytes int64
}

// NewCapture prepares to keep frames. Of what is kept and not yet forgotten there are at most limit bytes; what comes
// beyond is dropped, for peers to send again.
func NewCapture(netns string, limit int64) (*Capture, error) {
	c := &Capture{netns: netns, limit: limit, names: map[int]string{}, ended: make(chan struct{}), news: make(chan struct{}, 1)}
	if err := Do(netns, c.open); err != nil {
		return nil, fmt.Errorf("prepare to keep frames of %s: %w", netns, err)
	}
	go c.read()
	return c, nil
}

func (c *Capture) open() error {
	list, err := links()
	if err != nil {
		return err
	}
	for _, itf := range list {
		c.names[itf.Index] = itf.Name
	}
	// Without a protocol nothing arrives yet.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	c.file = os.NewFile(uintptr(fd), "packet socket")
	err = setUpCapture(fd)
	if err == nil {
		c.conn, err = c.file.SyscallConn()
	}
	if err != nil {
		c.file.Close()
	}
	return err
}

func setUpCapture(fd int) error {
	if err := nothing.attach(fd); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return fmt.Errorf("ask for frames' headers: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("leave outgoing frames out: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		// Without the privilege it is as large as the host allows.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer); err != nil {
			return fmt.Errorf("enlarge receive buffer: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL)}); err != nil {
		return fmt.Errorf("bind packet socket: %w", err)
	}
	return nil
}

// networkOrder is htons.
func networkOrder(v uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, v))
}

// KeepNew keeps from now on the segments that RefuseNew drops. It is to be called before that.
func (c *Capture) KeepNew() error { return c.attach(openings) }

// Start keeps all frames that come from now on. It is to be called immediately before Shut: what comes between the two is
// received here and kept as well.
func (c *Capture) Start() error { return c.attach(everything) }

// Stop ends it: what has come is still delivered, what comes is not kept any more. A lock is to be opened before, so that
// no frame gets lost between the two, and Inject called afterwards, whose frames would be kept otherwise.
func (c *Capture) Stop() error {
	err := c.attach(nothing)
	_ = c.file.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; fails on a closed socket, which needs no waking
	<-c.ended
	return err
}

// Close lets go of the namespace and of what was kept. The kernel closes a packet socket only after a grace period of
// some milliseconds, which Close does not wait for.
func (c *Capture) Close() {
	_ = c.Stop()
	c.mu.Lock()
	c.frames, c.next, c.held, c.forget = nil, 0, 0, true
	c.mu.Unlock()
	go c.file.Close()
}

// Next returns the frames that came since the call before, in the order of their arrival, and waits for one if there is
// none. It returns io.EOF once all were delivered that came before Stop.
func (c *Capture) Next(ctx context.Context) ([]Frame, error) {
	for {
		ended := c.hasEnded()
		if batch := c.batch(); len(batch) > 0 {
			return batch, nil
		}
		if ended {
			return nil, c.end()
		}
		select {
		case <-c.news:
		case <-c.ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Kept returns what is kept, delivered by Next or not, in the order of arrival. It is complete after Stop.
func (c *Capture) Kept() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.frames)
}

// Forget keeps from now on only what Next has not delivered: the frames will not be needed here again.
func (c *Capture) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget = true
	c.discard()
}

// Stats may be called at any time until Close.
func (c *Capture) Stats() CaptureStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.countKernelDrops()
	return c.stats
}

func (c *Capture) attach(f filter) error {
	var err error
	if cerr := c.conn.Control(func(fd uintptr) { err = f.attach(int(fd)) }); cerr != nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("keep frames of %s: %w", c.netns, err)
	}
	return nil
}

func (c *Capture) hasEnded() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

func (c *Capture) end() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure != nil {
		return fmt.Errorf("keep frames of %s: %w", c.netns, c.failure)
	}
	return io.EOF
}

// batch takes the next frames, or none.
func (c *Capture) batch() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	bytes, n := 0, 0
	for _, f := range c.frames[c.next:] {
		if n > 0 && (n == batchFrames || bytes+len(f.Data) > batchBytes) {
			break
		}
		bytes += len(f.Data)
		n++
	}
	batch := slices.Clone(c.frames[c.next : c.next+n])
	c.next += n
	if c.forget {
		c.discard()
	}
	return batch
}

// discard lets go of what was delivered.
func (c *Capture) discard() {
	for _, f := range c.frames[:c.next] {
		c.held -= cost(f)
	}
	clear(c.frames[:c.next]) // the array is shared with what follows
	c.frames, c.next = c.frames[c.next:], 0
}

func cost(f Frame) int64 { return int64(len(f.Data)) + frameCost }

// read takes frames from the socket until Stop, and then what is left in it.
func (c *Capture) read() {
	defer close(c.ended)
	buf := make([]byte, VNetLen+MaxFrame)
	err := c.conn.Read(func(fd uintptr) bool { return !c.drain(int(fd), buf) })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = c.conn.Control(func(fd uintptr) { c.drain(int(fd), buf) }) // fails on a socket that Close has closed
	}
}

// drain takes what the socket has, and says whether more may come.
func (c *Capture) drain(fd int, buf []byte) bool {
	for {
		n, from, err := unix.Recvfrom(fd, buf, unix.MSG_TRUNC)
		switch {
		case err == nil:
			c.keep(buf, n, from)
		case errors.Is(err, unix.EAGAIN):
			return true
		case errors.Is(err, unix.EINVAL): // a frame for which there is no header (virtio_net_hdr_from_skb)
			c.drop(0)
		case isAny(err, unix.EINTR, unix.ENETDOWN):
		default:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.failure = fmt.Errorf("read packet socket: %w", err)
			return false
		}
	}
}

// keep keeps what is in the buffer, a header and a frame of n bytes together.
func (c *Capture) keep(buf []byte, n int, from unix.Sockaddr) {
	link, ok := from.(*unix.SockaddrLinklayer)
	if !ok || c.names[link.Ifindex] == "" || n < VNetLen+etherLen {
		return
	}
	length := int64(n - VNetLen)
	if n > len(buf) {
		c.drop(length)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held+length+frameCost > c.limit {
		c.stats.Dropped++
		c.stats.DroppedBytes += length
		return
	}
	f := Frame{Interface: c.names[link.Ifindex], VNet: [VNetLen]byte(buf), Data: slices.Clone(buf[VNetLen:n])}
	c.frames = append(c.frames, f)
	c.held += cost(f)
	c.stats.Kept++
	c.stats.KeptBytes += length
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *Capture) drop(length int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Dropped++
	c.stats.DroppedBytes += length
}

// countKernelDrops adds what the kernel has dropped since it was asked last.
func (c *Capture) countKernelDrops() {
	_ = c.conn.Control(func(fd uintptr) { // fails after Close, when the count matters no more
		if st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			c.stats.Dropped += int64(st.Drops)
		}
	})
}
