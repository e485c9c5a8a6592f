package transfer

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// alpn names the protocol to TLS, so that a connection meant for another
// service that happens to know the key does not get further than TLS.
const alpn = "migrate/1"

// exporterLabel names the keying material that token proofs are bound to.
const exporterLabel = "EXPORTER-migrate-enrolment"

// baseConfig is what both sides share. There is no certificate authority: the
// certificates are self-signed, peers are known by the fingerprint of their
// key. So the chain and host name checks of crypto/tls are switched off with
// InsecureSkipVerify (source) and RequireAnyClientCert (destination), and
// VerifyConnection, which runs on every connection, does the pinning instead.
// That the peer holds the key's private half TLS itself still verifies.
// Session tickets are off, so no connection skips the certificates.
func baseConfig(id *Identity) *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{id.cert},
		MinVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{alpn},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // bulk data; small first records only cost
	}
}

// sourceConfig accepts the destination with the fingerprint want alone.
func sourceConfig(id *Identity, want string) *tls.Config {
	c := baseConfig(id)
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		got, err := peerFingerprint(cs)
		if err != nil {
			return err
		}
		if got != want {
			return &PeerKeyError{Expected: want, Got: got}
		}
		return nil
	}
	return c
}

// destinationConfig accepts any well-formed key: whether the source behind it
// may come in is decided at its preface, where it can be told why not and
// where it may show a token.
func destinationConfig(id *Identity) *tls.Config {
	c := baseConfig(id)
	c.ClientAuth = tls.RequireAnyClientCert
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := peerFingerprint(cs)
		return err
	}
	return c
}

// peerFingerprint is the fingerprint of the key the peer proved to have.
func peerFingerprint(cs tls.ConnectionState) (string, error) {
	if cs.NegotiatedProtocol != alpn {
		return "", protocolErrorf("peer does not offer %s", alpn)
	}
	if len(cs.PeerCertificates) != 1 {
		return "", protocolErrorf("peer sent %d certificates instead of one", len(cs.PeerCertificates))
	}
	cert := cs.PeerCertificates[0]
	if _, ok := cert.PublicKey.(ed25519.PublicKey); !ok {
		return "", protocolErrorf("peer's key is %v, not Ed25519", cert.PublicKeyAlgorithm)
	}
	return fingerprintOf(cert), nil
}

// tlsTransport is a lane over TLS. Its Close goes to the connection below:
// tls.Conn's own would first try to send an alert, for up to 5 s.
type tlsTransport struct {
	*tls.Conn
	raw *batchConn
}

func (t *tlsTransport) Close() error {
	if err := t.raw.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// secure runs the TLS handshake of the role that wrap makes and then shake, all
// before ctx ends. On error raw is closed. The error of an ended ctx is the
// context's.
func secure(ctx context.Context, raw net.Conn, wrap func(net.Conn) *tls.Conn, shake func(*tlsTransport, tls.ConnectionState) error) (*tlsTransport, error) {
	below := &batchConn{Conn: raw}
	conn := wrap(below)
	t := &tlsTransport{Conn: conn, raw: below}
	err := conn.HandshakeContext(ctx)
	if err == nil {
		stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
		err = shake(t, conn.ConnectionState())
		if !stop() && err == nil {
			err = ctx.Err()
		}
	}
	if err == nil {
		below.begin()
		return t, nil
	}
	t.Close()
	if ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return nil, err
}
