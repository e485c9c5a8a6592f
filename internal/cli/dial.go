package cli

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"migrate/internal/fail"
	"migrate/transfer"
)

// sshHandshake allows for jump hosts and slow logins.
const sshHandshake = 30 * time.Second

// dialer returns the function that makes sessions with the destination.
func (o sendOptions) dialer(log *slog.Logger) (func(context.Context) (*transfer.Session, error), error) {
	to := transfer.Options{Lanes: o.streams, Limit: o.bandwidth, Log: log}
	if o.dest.ssh() {
		return o.sshDialer(to)
	}
	id, err := transfer.LoadOrCreateIdentity(o.stateDir)
	if err != nil {
		return nil, fail.New(fail.Auth, "load this host's key", err).With(o.stateDir, "")
	}
	known, err := transfer.NewPeers(o.stateDir)
	if err != nil {
		return nil, fail.New(fail.Auth, "load the known destinations", err).With(o.stateDir, "")
	}
	var mu sync.Mutex
	pin := transfer.PeerPin{Token: o.token, Fingerprint: o.fingerprint, Known: known}
	return func(ctx context.Context) (*transfer.Session, error) {
		mu.Lock()
		defer mu.Unlock()
		sess, err := transfer.Dial(ctx, o.dest.addr, id, pin, to)
		if err == nil {
			// the token is used up, and a later session must be with the same destination
			pin = transfer.PeerPin{Fingerprint: sess.Peer().Fingerprint}
		}
		return sess, explain(err)
	}, nil
}

// explain turns what a user can put right into a Fault. The agent does so with what else goes wrong with sessions.
func explain(err error) error {
	code, remedy := fail.Auth, ""
	switch {
	case errors.Is(err, transfer.ErrNoPin):
		remedy = "run `migrate enroll` at the destination and give the token to --token here"
	case errors.Is(err, transfer.ErrToken), errors.Is(err, transfer.ErrTokenExpired), errors.Is(err, transfer.ErrTokenUsed):
		remedy = "make a new token with `migrate enroll` at the destination"
	case errors.Is(err, transfer.ErrBusy):
		code, remedy = fail.Refused, "try again later, or raise --max-migrations there"
	default:
		return err
	}
	return fail.New(code, "open a session with the destination", err).With("source, phase offer", remedy)
}

func (o sendOptions) sshDialer(to transfer.Options) (func(context.Context) (*transfer.Session, error), error) {
	argv, err := transfer.SSHCommand(o.dest.user, o.dest.host, o.dest.port, o.remote, o.sshArgs)
	if err != nil {
		return nil, usage(err.Error(), destRemedy)
	}
	to.HandshakeTimeout = sshHandshake
	return func(ctx context.Context) (*transfer.Session, error) {
		return transfer.DialCommand(ctx, argv, to)
	}, nil
}
