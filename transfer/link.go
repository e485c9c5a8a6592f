package transfer

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// IsLinkError says whether err means that the peer could not be reached, or that the way to it broke or was closed, as opposed to a
// peer that answered with a refusal or broke the protocol.
func IsLinkError(err error) bool {
	var lane *LaneError
	var netErr net.Error
	var errno syscall.Errno // what every system call fails with is a net.Error by its methods
	switch {
	case errors.Is(err, ErrProtocol), errors.Is(err, ErrLimit), errors.Is(err, ErrVersion), errors.Is(err, ErrPeerKey),
		errors.Is(err, ErrUnauthorized), errors.Is(err, ErrReset), errors.Is(err, ErrRefused), errors.Is(err, ErrBusy):
		return false
	case errors.As(err, &lane), errors.Is(err, ErrDead), errors.Is(err, ErrClosed), errors.Is(err, ErrNoBye), errors.Is(err, errHandshake):
		return true
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &netErr) && !errors.As(netErr, &errno):
		return true
	case errors.As(err, new(*net.OpError)):
		return true
	case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.ECONNREFUSED):
		return true
	}
	return false
}
