package transfer

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"
)

// errHandshake is the cause of contexts that end because a handshake took too long.
var errHandshake = errors.New("handshake timed out")

// Dial opens a session to the destination at addr (host:port), as the source
// id. ctx and Options.HandshakeTimeout bound the opening, not the session. The
// destination must hold the key that pin names; otherwise the error matches
// ErrPeerKey. The caller ends the session with Close or Abort.
func Dial(ctx context.Context, addr string, id *Identity, pin PeerPin, o Options) (*Session, error) {
	o = o.withDefaults()
	want, tok, err := pin.resolve(addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.HandshakeTimeout, errHandshake)
	defer cancel()
	d := &dialer{addr: addr, id: id, want: want, tok: tok, o: o}
	lanes, theirs, err := d.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	if tok != nil && pin.Known != nil {
		if err := pin.Known.Remember(addr, want); err != nil {
			// The session is good; the next one will need a pin.
			o.Log.Warn("destination enrolled this source but is not remembered", "destination", addr, "err", err)
		}
	}
	peer := PeerInfo{Fingerprint: want, Name: addr, Role: Destination, Version: theirs.chosen}
	return newSession(lanes, peer, theirs, o, nil), nil
}

// dialer opens the lanes of one session.
type dialer struct {
	addr string
	id   *Identity
	want string // the destination's fingerprint
	tok  *token // nil without
	o    Options
}

// open opens all lanes: lane 0, and with the join token it brings, the rest.
func (d *dialer) open(ctx context.Context) ([]transport, preface, error) {
	first := preface{
		versions: d.o.versions, role: Source, lanes: uint8(d.o.Lanes),
		deadAfter: uint32(d.o.DeadAfter.Milliseconds()),
	}
	if _, err := rand.Read(first.session[:]); err != nil {
		return nil, first, err
	}
	lanes := make([]transport, d.o.Lanes)
	t, theirs, err := d.lane(ctx, first)
	if err != nil {
		return nil, first, err
	}
	lanes[0] = t
	rest, ctx := errgroup.WithContext(ctx)
	for i := 1; i < len(lanes); i++ {
		mine := first
		mine.lane, mine.join = uint8(i), theirs.join
		rest.Go(func() error {
			t, answer, err := d.lane(ctx, mine)
			if err != nil {
				return err
			}
			lanes[i] = t
			if answer.chosen != theirs.chosen {
				return protocolErrorf("lane %d speaks version %d, lane 0 version %d", i, answer.chosen, theirs.chosen)
			}
			return nil
		})
	}
	if err := rest.Wait(); err != nil {
		for _, t := range lanes {
			if t != nil {
				t.Close()
			}
		}
		return nil, first, err
	}
	return lanes, theirs, nil
}

// lane opens one lane with the preface mine and returns the answer.
func (d *dialer) lane(ctx context.Context, mine preface) (t transport, answer preface, err error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", d.addr)
	if err != nil {
		return nil, answer, fmt.Errorf("lane %d: %w", mine.lane, err)
	}
	tune(raw, d.o)
	client := func(c net.Conn) *tls.Conn { return tls.Client(c, sourceConfig(d.id, d.want)) }
	t, err = secure(ctx, raw, client, func(t *tlsTransport, cs tls.ConnectionState) error {
		if mine.lane == 0 && d.tok != nil {
			if err := d.prove(&mine, cs); err != nil {
				return err
			}
		}
		answer, err = introduce(t, mine)
		return err
	})
	if err != nil {
		return nil, answer, fmt.Errorf("lane %d: %w", mine.lane, err)
	}
	return t, answer, nil
}

// prove puts the proof of the enrolment token into a preface.
func (d *dialer) prove(mine *preface, cs tls.ConnectionState) error {
	material, err := cs.ExportKeyingMaterial(exporterLabel, nil, proofSize)
	if err != nil {
		return fmt.Errorf("bind enrolment token to connection: %w", err)
	}
	source, err := ParseFingerprint(d.id.Fingerprint())
	if err != nil {
		return err
	}
	mine.flags |= prefaceProof
	mine.tokenID = tokenID(d.tok.secret)
	mine.proof = tokenProof(d.tok.secret, material, source, d.tok.fingerprint)
	return nil
}
