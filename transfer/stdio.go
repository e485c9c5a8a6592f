package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Stdio opens a session on a pair of pipes, such as a process's own stdin and
// stdout, with one lane. Whoever made the pipes vouches for the peer. ctx and
// Options.HandshakeTimeout bound the opening, not the session.
//
// If r and w are closers, the session closes them at its end. A reader that
// cannot be closed while it is read keeps one goroutine until it returns.
func Stdio(ctx context.Context, r io.Reader, w io.Writer, role Role, o Options) (*Session, error) {
	s, err := openPipe(ctx, &pipe{r: r, w: w}, role, "stdio", o)
	if err != nil {
		return nil, fmt.Errorf("open session on pipes: %w", err)
	}
	return s, nil
}

// openPipe opens a session on t, which it owns.
func openPipe(ctx context.Context, t transport, role Role, name string, o Options) (*Session, error) {
	o.Lanes = 1
	o = o.withDefaults()
	ctx, cancel := context.WithTimeoutCause(ctx, o.HandshakeTimeout, errHandshake)
	defer cancel()
	type result struct {
		theirs  preface
		version uint16
		err     error
	}
	// The handshake cannot be interrupted on every kind of pipe, so it is
	// left behind if it does not come back.
	shaken := make(chan result, 1)
	go func() {
		theirs, version, err := shakePipe(t, role, o)
		shaken <- result{theirs, version, err}
	}()
	select {
	case r := <-shaken:
		if r.err != nil {
			t.Close()
			return nil, r.err
		}
		peer := PeerInfo{Name: name, Role: r.theirs.role, Version: r.version}
		return newSession([]transport{t}, peer, r.theirs, o, nil), nil
	case <-ctx.Done():
		t.Close()
		return nil, context.Cause(ctx)
	}
}

// shakePipe is the handshake of the only lane there is.
func shakePipe(t io.ReadWriter, role Role, o Options) (preface, uint16, error) {
	if role == Source {
		mine := preface{versions: o.versions, role: Source, lanes: 1, deadAfter: uint32(o.DeadAfter.Milliseconds())}
		if _, err := rand.Read(mine.session[:]); err != nil {
			return mine, 0, err
		}
		theirs, err := introduce(t, mine)
		return theirs, theirs.chosen, err
	}
	theirs, version, err := receive(t, o)
	if err == nil && theirs.lanes != 1 {
		err = protocolErrorf("%d lanes on one pipe", theirs.lanes)
	}
	return theirs, version, answer(t, o, theirs, version, [joinSize]byte{}, err)
}

// pipe is a lane over a reader and a writer.
type pipe struct {
	r io.Reader
	w io.Writer

	closeWrite, closeRead sync.Once
	writeErr, readErr     error
}

func (p *pipe) Read(b []byte) (int, error)  { return p.r.Read(b) }
func (p *pipe) Write(b []byte) (int, error) { return p.w.Write(b) }

func (p *pipe) CloseWrite() error {
	p.closeWrite.Do(func() { p.writeErr = closeIfCloser(p.w) })
	return p.writeErr
}

func (p *pipe) Close() error {
	err := p.CloseWrite()
	p.closeRead.Do(func() { p.readErr = closeIfCloser(p.r) })
	return errors.Join(err, p.readErr)
}

func closeIfCloser(v any) error {
	c, ok := v.(io.Closer)
	if !ok {
		return nil
	}
	if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
