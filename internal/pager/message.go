package pager

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// op says what a message is about. Those that are marked with + carry a descriptor, those with ? are answered by opAck.
type op string

const (
	opReady     op = "ready"     // worker to agent: the socket listens
	opPlan      op = "plan"      // agent to worker +?
	opFill      op = "fill"      // agent to worker
	opArrived   op = "arrived"   // agent to worker
	opRequest   op = "request"   // worker to agent
	opLost      op = "lost"      // agent to worker: what has not arrived never will
	opContainer op = "container" // agent to guard ?, guard to worker
	opCommit    op = "commit"    // agent to guard ?, guard to worker
	opAbort     op = "abort"     // agent to guard
	opHold      op = "hold"      // worker to guard +: keep this descriptor
	opRelease   op = "release"   // worker to guard: drop that descriptor
	opRestored  op = "restored"  // worker to guard: CRIU is done, the tasks run
	opOver      op = "over"      // worker to guard and agent, guard to agent: this is the end
	opAck       op = "ack"
)

// message is what the three processes tell each other.
type message struct {
	Op       op        `json:"op"`
	ID       int       `json:"id,omitempty"` // hold, release: of the address space; ready, container: a pid
	Freezer  string    `json:"freezer,omitempty"`
	Error    string    `json:"error,omitempty"`
	Requests []Request `json:"requests,omitempty"`
	Arrivals []Arrival `json:"arrivals,omitempty"`
	Record   *Record   `json:"record,omitempty"`
}

// Request is a page that a task waits for and that is not on this host.
type Request struct {
	VPID int    `json:"vpid"`
	Addr uint64 `json:"addr"` // as in the plan, whatever the task has done with its mappings since
}

// Arrival says in which slots the content of remote pages is now.
type Arrival struct {
	VPID  int    `json:"vpid"`
	Addr  uint64 `json:"addr"` // as in the plan
	Pages uint32 `json:"pages"`
	Slot  uint32 `json:"slot"` // of the first page, or ZeroSlot for all
}

const (
	// arrivalsAtOnce keeps a message well below the size of a socket's buffer.
	arrivalsAtOnce = 256
	messageLimit   = 64 << 10
)

// conn is one end of a socket pair. Messages may be sent by several goroutines, and received by one.
type conn struct {
	c   *net.UnixConn
	mu  sync.Mutex // of sending
	buf []byte     // of receiving
}

// newPair makes a connection: this process's end, and one to be inherited by another, which the caller closes.
func newPair() (*conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "socketpair")
	ours, err := newConn(os.NewFile(uintptr(fds[0]), "socketpair"))
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// newConn takes over f.
func newConn(f *os.File) (*conn, error) {
	defer f.Close() // FileConn duplicates it
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("use a socket pair: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("use a socket pair: it is a %s", c.LocalAddr().Network())
	}
	return &conn{c: u, buf: make([]byte, messageLimit)}, nil
}

// send delivers m and duplicates of fds. What was sent reaches the other process also when this one dies right afterwards.
func (c *conn) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode %s: %w", m.Op, err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, _, err := c.c.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send %s: %w", m.Op, err)
	}
	return nil
}

// recv returns the next message with its descriptor, or -1, which is the caller's. io.EOF: the other process is gone.
func (c *conn) recv() (message, int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.c.ReadMsgUnix(c.buf, oob)
	if errors.Is(err, unix.ECONNRESET) {
		// the other process ended without having read everything, which is told before, and once; what it sent is still to come
		n, oobn, _, _, err = c.c.ReadMsgUnix(c.buf, oob)
	}
	if err != nil {
		return message{}, -1, err
	}
	if n == 0 {
		return message{}, -1, io.EOF
	}
	fd, err := oneRight(oob[:oobn])
	if err != nil {
		return message{}, -1, err
	}
	var m message
	if err := json.Unmarshal(c.buf[:n], &m); err != nil {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		return message{}, -1, fmt.Errorf("decode a message: %w", err)
	}
	return m, fd, nil
}

// oneRight takes the descriptor out of a control message; -1 if there is none.
func oneRight(oob []byte) (int, error) {
	if len(oob) == 0 {
		return -1, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1, fmt.Errorf("take a descriptor: %w", err)
	}
	var all []int
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return -1, fmt.Errorf("take a descriptor: %w", err)
		}
		all = append(all, fds...)
	}
	if len(all) == 1 {
		return all[0], nil
	}
	for _, fd := range all {
		_ = unix.Close(fd)
	}
	return -1, fmt.Errorf("take a descriptor: %d came at once", len(all))
}

func (c *conn) close() { _ = c.c.Close() }
