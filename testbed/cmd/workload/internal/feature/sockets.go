package feature

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// scm has a pair of unix sockets of each type. In each a message is under way that carries the reading end of a pipe, and in
// the pipe is a number.
type scm struct {
	pairs map[string][2]int
}

var socketTypes = map[string]int{"stream": unix.SOCK_STREAM, "datagram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}

func newSCM(Options) (machine, error) {
	s := &scm{pairs: map[string][2]int{}}
	for name, kind := range socketTypes {
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		s.pairs[name] = pair
		if err := s.put(pair[0], 1); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// put sends a number, and the same again in a pipe.
func (s *scm) put(fd int, n uint64) error {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(pipe[0])
	defer unix.Close(pipe[1])
	if _, err := unix.Write(pipe[1], number(n)); err != nil {
		return err
	}
	return retry(func() error { return unix.Sendmsg(fd, number(n), unix.UnixRights(pipe[0]), nil, 0) })
}

// get receives what put has sent.
func (s *scm) get(fd int) (n uint64, err error) {
	data, control := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	var length, clen int
	if err := retry(func() (err error) {
		length, clen, _, _, err = unix.Recvmsg(fd, data, control, unix.MSG_CMSG_CLOEXEC)
		return err
	}); err != nil {
		return 0, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:clen])
	if err != nil || len(messages) != 1 || length != 8 {
		return 0, damage("%d bytes and %d control messages came, %v", length, len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, damage("%d descriptors came, %v", len(fds), err)
	}
	defer unix.Close(fds[0])
	inPipe := make([]byte, 64)
	if length, err = unix.Read(fds[0], inPipe); err != nil || string(inPipe[:length]) != string(data[:8]) {
		return 0, damage("the pipe that came has %x, the message %x, %v", inPipe[:max(length, 0)], data[:8], err)
	}
	return binary.BigEndian.Uint64(data), nil
}

func (s *scm) step(n uint64) error {
	for name, pair := range s.pairs {
		got, err := s.get(pair[1])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if got != n {
			return damage("%s: message %d came and not %d", name, got, n)
		}
		if err := s.put(pair[0], n+1); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
