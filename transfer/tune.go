package transfer

import (
	"net"

	"golang.org/x/sys/unix"
)

// unsentLow is how many bytes may wait unsent in the kernel on a lane that
// carries control and data: what control messages have to queue behind.
const unsentLow = 128 << 10

// tune sets up a lane's TCP connection. It is about speed alone, so what the
// kernel does not know is left out.
func tune(conn net.Conn, o Options) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return
	}
	_ = tcp.SetNoDelay(true)
	if o.Lanes > 1 {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLow)
	})
}
