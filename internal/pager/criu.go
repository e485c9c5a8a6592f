package pager

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// restoreFinished is what CRIU sends when all tasks are restored (LAZY_PAGES_RESTORE_FINISHED in criu/uffd.c).
const restoreFinished = 0x52535446

// listener is the socket to which CRIU connects once.
type listener struct {
	l   *net.UnixListener
	dir *os.File
}

// listen makes the socket in dir. Its name is reached through a descriptor, since the address of a socket has room for 108 bytes.
func listen(dir string) (*listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open CRIU's work directory: %w", err)
	}
	path := filepath.Join("/proc/self/fd", strconv.Itoa(int(d.Fd())), SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		d.Close()
		return nil, fmt.Errorf("make way for CRIU's socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("listen for CRIU: %w", err)
	}
	return &listener{l, d}, nil
}

// accept takes the one connection, and removes the socket.
func (l *listener) accept() (*net.UnixConn, error) {
	defer l.dir.Close()
	defer l.l.Close()
	c, err := l.l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("wait for CRIU: %w", err)
	}
	return c, nil
}

// hearCRIU takes the descriptors of all tasks. The protocol is criu/uffd.c's, see send_uffd there.
func (w *worker) hearCRIU(l *listener) {
	c, err := l.accept()
	if err != nil {
		w.fail(err)
		return
	}
	defer c.Close()
	for {
		vpid, fd, err := readTask(c)
		switch {
		case err != nil:
			w.fail(err)
			return
		case vpid == restoreFinished:
			w.completeRestore()
			return
		case fd < 0: // a zombie has no memory
			continue
		}
		if err := w.connected(int(vpid), fd); err != nil {
			w.fail(err)
			return
		}
	}
}

// readTask reads one task: its pid, and its descriptor, which is the caller's, or -1.
func readTask(c *net.UnixConn) (int32, int, error) {
	var b [4]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, -1, fmt.Errorf("the connection of CRIU broke before the restore was complete: %w", err)
	}
	vpid := int32(binary.NativeEndian.Uint32(b[:]))
	switch {
	case vpid < 0 || vpid == restoreFinished:
		return vpid, -1, nil
	case vpid == 0:
		return 0, -1, errors.New("CRIU sent pid 0")
	}
	oob := make([]byte, unix.CmsgSpace(4*16))
	n, oobn, flags, _, err := c.ReadMsgUnix(b[:1], oob)
	if err != nil || n != 1 || flags&unix.MSG_CTRUNC != 0 {
		return 0, -1, fmt.Errorf("take the descriptor of vpid %d: %d bytes, flags %#x: %w", vpid, n, flags, errors.Join(err, io.ErrUnexpectedEOF))
	}
	fd, err := oneRight(oob[:oobn])
	if err == nil {
		err = checkDescriptor(fd)
	}
	if err != nil {
		return 0, -1, fmt.Errorf("take the descriptor of vpid %d: %w", vpid, err)
	}
	return vpid, fd, nil
}

// checkDescriptor closes fd unless it is a userfaultfd, which it makes non-blocking: the kernel refuses to poll others.
func checkDescriptor(fd int) error {
	if fd < 0 {
		return errors.New("none came")
	}
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err == nil && name != "anon_inode:[userfaultfd]" {
		err = fmt.Errorf("%q came instead of a userfaultfd", name)
	}
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return err
}
