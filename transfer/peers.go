package transfer

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// knownFile is the file of the source in the state directory.
const knownFile = "known_peers"

// Peers is a source's memory of destinations: the file known_peers of its
// state directory, one "host:port fingerprint" a line.
type Peers struct {
	path string
	mu   sync.Mutex // serialises changes of the file by this process
}

// NewPeers returns the Peers of a state directory, which it makes if need be.
func NewPeers(stateDir string) (*Peers, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	return &Peers{path: filepath.Join(stateDir, knownFile)}, nil
}

// Lookup returns the fingerprint known for host:port, or "" if there is none.
func (p *Peers) Lookup(addr string) (string, error) {
	text, err := readTrusted(p.path)
	if err != nil {
		return "", fmt.Errorf("read known peers: %w", err)
	}
	addr, found := canonical(addr), ""
	err = eachLine(text, func(fields []string) error {
		if len(fields) < 2 {
			return fmt.Errorf("%q has no fingerprint", fields[0])
		}
		if _, err := ParseFingerprint(fields[1]); err != nil {
			return err
		}
		if canonical(fields[0]) == addr {
			found = fields[1]
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("read known peers: %w", err)
	}
	return found, nil
}

// Remember notes the fingerprint of host:port in place of what was known.
func (p *Peers) Remember(addr, fingerprint string) error {
	if _, err := ParseFingerprint(fingerprint); err != nil {
		return fmt.Errorf("remember %s: %w", addr, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := readTrusted(p.path)
	if err != nil {
		return fmt.Errorf("remember %s: %w", addr, err)
	}
	addr = canonical(addr)
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 0 && canonical(fields[0]) == addr {
			continue
		}
		out.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	fmt.Fprintf(&out, "%s %s\n", addr, fingerprint)
	if err := replaceFile(p.path, out.Bytes()); err != nil {
		return fmt.Errorf("remember %s: %w", addr, err)
	}
	return nil
}

// canonical makes different spellings of one host:port the same.
func canonical(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return strings.ToLower(addr)
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), port)
}

// PeerPin is what a source recognises a destination by. The first field that
// is set counts; without any there is no session.
type PeerPin struct {
	// Token is an enrolment token's text. After a session with it the
	// destination is remembered in Known, if that is set too.
	Token string
	// Fingerprint of the destination's key. Together with Token they must agree.
	Fingerprint string
	// Known is asked for the destination's address.
	Known *Peers
}

// resolve settles the fingerprint to expect at addr, and the token to show.
func (p PeerPin) resolve(addr string) (want string, tok *token, err error) {
	if p.Token != "" {
		return p.resolveToken()
	}
	want = p.Fingerprint
	if want == "" && p.Known != nil {
		if want, err = p.Known.Lookup(addr); err != nil {
			return "", nil, err
		}
	}
	if want == "" {
		return "", nil, ErrNoPin
	}
	_, err = ParseFingerprint(want)
	return want, nil, err
}

func (p PeerPin) resolveToken() (string, *token, error) {
	t, err := parseToken(p.Token)
	if err != nil {
		return "", nil, err
	}
	want := formatFingerprint(t.fingerprint)
	if p.Fingerprint != "" && p.Fingerprint != want {
		return "", nil, fmt.Errorf("the token is of another destination: %w", &PeerKeyError{Expected: p.Fingerprint, Got: want})
	}
	if !time.Now().Before(t.expires) {
		return "", nil, fmt.Errorf("%w on %s", ErrTokenExpired, t.expires.UTC().Format(time.RFC3339))
	}
	return want, &t, nil
}
