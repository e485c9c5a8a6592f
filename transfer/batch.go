package transfer

import (
	"bufio"
	"net"
	"sync"
)

// crypto/tls writes each record of 16 KiB by itself and reads them likewise. On fast links the kernel's part of that costs more than to
// copy the bytes once more, so that records of a frame are gathered and leave together.
const (
	// batchOut takes the records of a frame of the default size.
	batchOut = defaultFrameSize + 8<<10
	batchIn  = 128 << 10
	// batchFrom is the size from which a write is more than one record.
	batchFrom = 16 << 10
)

// batchConn is the connection below TLS. It passes everything on as it is until begin is called, when the peer is known: nobody
// else makes it set memory aside.
type batchConn struct {
	net.Conn
	in *bufio.Reader // the reading goroutine's

	mu    sync.Mutex // TLS writes also on behalf of the reading goroutine
	out   []byte     // not yet written; nil before begin
	inUse bool       // between gather and flush
}

// begin sets the buffers up. Nobody may be reading or writing.
func (c *batchConn) begin() {
	c.in = bufio.NewReaderSize(c.Conn, batchIn)
	c.out = make([]byte, 0, batchOut)
}

func (c *batchConn) Read(p []byte) (int, error) {
	if c.in == nil {
		return c.Conn.Read(p)
	}
	return c.in.Read(p)
}

// gather keeps what is written from now on until there is enough of it, or flush is called.
func (c *batchConn) gather() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inUse = c.out != nil
}

// flush writes what was gathered.
func (c *batchConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inUse = false
	return c.writeOut()
}

func (c *batchConn) writeOut() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

func (c *batchConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.inUse {
		return c.Conn.Write(p)
	}
	if len(c.out)+len(p) > cap(c.out) {
		if err := c.writeOut(); err != nil {
			return 0, err
		}
	}
	if len(p) > cap(c.out) {
		return c.Conn.Write(p)
	}
	c.out = append(c.out, p...)
	return len(p), nil
}

// Write sends p in as few pieces as it can.
func (t *tlsTransport) Write(p []byte) (int, error) {
	if len(p) <= batchFrom {
		return t.Conn.Write(p)
	}
	t.raw.gather()
	n, err := t.Conn.Write(p)
	if ferr := t.raw.flush(); err == nil {
		err = ferr
	}
	return n, err
}
