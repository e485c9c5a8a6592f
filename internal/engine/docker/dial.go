package docker

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"time"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"
)

// How long a call waits for a daemon that is not there: one that is started anew is back within seconds. It then answers once it has looked
// after all its containers, which takes longer; until then connections are taken and calls wait for themselves.
const (
	dialPatience = 20 * time.Second
	dialPoll     = 50 * time.Millisecond
)

// dialer connects to the daemon's socket, and waits for it as long as patient says.
type dialer struct {
	socket  string
	patient func(context.Context) bool
}

func (d dialer) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	for end := time.Now().Add(dialPatience); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", d.socket)
		absent := errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
		if !absent || !d.patient(ctx) || time.Now().After(end) {
			return conn, err
		}
		select {
		case <-time.After(dialPoll):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// hurry marks a context whose calls do not wait for a daemon that is not there.
type hurry struct{}

func hurried(ctx context.Context) context.Context { return context.WithValue(ctx, hurry{}, true) }

// waits is what a dialer asks of a call's context.
func waits(ctx context.Context) bool { return ctx.Value(hurry{}) == nil }

// away says whether a call failed because the daemon is not there, went away, or does not answer, rather than by its word.
func away(err error) bool {
	return client.IsErrConnectionFailed(err) || errors.Is(err, context.DeadlineExceeded)
}
