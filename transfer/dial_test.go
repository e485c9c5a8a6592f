package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWrongDestinationKey(t *testing.T) {
	s := newSite(t, Options{})
	expected := newTestIdentity(t).Fingerprint()
	_, err := Dial(testContext(t), s.addr(), newTestIdentity(t), PeerPin{Fingerprint: expected}, Options{})
	mustBe(t, err, ErrPeerKey)
	var key *PeerKeyError
	if !errors.As(err, &key) || key.Expected != expected || key.Got != s.id.Fingerprint() {
		t.Errorf("error does not name both keys: %v", err)
	}
}

func TestUnknownSourceKey(t *testing.T) {
	s := newSite(t, Options{})
	_, err := Dial(testContext(t), s.addr(), newTestIdentity(t), s.pin(), Options{})
	mustBe(t, err, ErrUnauthorized)
	mustBe(t, err, ErrRefused)
}

func TestNoPin(t *testing.T) {
	s := newSite(t, Options{})
	known, err := NewPeers(t.TempDir())
	must(t, err)
	_, err = Dial(testContext(t), s.addr(), newTestIdentity(t), PeerPin{Known: known}, Options{})
	mustBe(t, err, ErrNoPin)
}

func TestNoCertificate(t *testing.T) {
	s := newSite(t, Options{})
	for name, conf := range map[string]*tls.Config{
		"none":    {InsecureSkipVerify: true, NextProtos: []string{alpn}},
		"tls 1.2": {InsecureSkipVerify: true, NextProtos: []string{alpn}, MaxVersion: tls.VersionTLS12},
		"no alpn": {InsecureSkipVerify: true, Certificates: []tls.Certificate{s.id.cert}},
	} {
		conn, err := tls.Dial("tcp", s.addr(), conf)
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // the verdict on the certificate comes late
			conn.Close()
		}
		if err == nil || errors.Is(err, io.EOF) && name == "none" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPeerInfo(t *testing.T) {
	s := newSite(t, Options{})
	id := newTestIdentity(t)
	must(t, s.auth.Authorize(id.Fingerprint(), ""))
	a, err := Dial(testContext(t), s.addr(), id, s.pin(), Options{})
	must(t, err)
	b, err := s.listen.Accept(testContext(t))
	must(t, err)
	ended(t, a, b)
	if p := a.Peer(); p != (PeerInfo{s.id.Fingerprint(), s.addr(), Destination, 1}) {
		t.Errorf("source sees %+v", p)
	}
	if p := b.Peer(); p.Fingerprint != id.Fingerprint() || p.Role != Source || p.Version != 1 {
		t.Errorf("destination sees %+v", p)
	}
}

// newer poses as a build whose oldest version is beyond this one.
var newer = Options{Lanes: 1, versions: VersionRange{7, 9}}

func TestVersions(t *testing.T) {
	check := func(what string, err error, local, remote VersionRange) {
		t.Helper()
		var v *VersionError
		if !errors.As(err, &v) || !errors.Is(err, ErrVersion) || v.Local != local || v.Remote != remote {
			t.Errorf("%s: %v", what, err)
		}
	}
	ours := VersionRange{MinVersion, MaxVersion}
	s := newSite(t, Options{})
	_, err := Dial(testContext(t), s.addr(), newTestIdentity(t), s.pin(), newer)
	check("newer source over TLS", err, newer.versions, ours)

	for _, c := range []struct{ src, dst Options }{{newer, Options{}}, {Options{}, newer}} {
		toDst, fromSrc := io.Pipe()
		toSrc, fromDst := io.Pipe()
		errs := make(chan error, 1)
		go func() { _, err := Stdio(testContext(t), toSrc, fromSrc, Source, c.src); errs <- err }()
		_, err = Stdio(testContext(t), toDst, fromDst, Destination, c.dst)
		src, dst := c.src.withDefaults().versions, c.dst.withDefaults().versions
		check("destination", err, dst, src)
		check("source", <-errs, src, dst)
	}
	for _, c := range []struct {
		a, b VersionRange
		want uint16
	}{{VersionRange{1, 3}, VersionRange{2, 5}, 3}, {VersionRange{2, 5}, VersionRange{1, 3}, 3}, {VersionRange{1, 1}, VersionRange{1, 9}, 1}} {
		if v, err := chooseVersion(c.a, c.b); v != c.want || err != nil {
			t.Errorf("%v and %v: %d, %v", c.a, c.b, v, err)
		}
	}
}

func TestSameRoles(t *testing.T) {
	for _, role := range []Role{Source, Destination} {
		r1, w1 := io.Pipe()
		r2, w2 := io.Pipe()
		errs := make(chan error, 2)
		o := Options{HandshakeTimeout: 200 * time.Millisecond}
		if role == Source {
			// Both write first; pipes without a buffer would stop them.
			go func() { _, err := Stdio(testContext(t), r2, io.MultiWriter(async{w1}), role, o); errs <- err }()
			go func() { _, err := Stdio(testContext(t), r1, io.MultiWriter(async{w2}), role, o); errs <- err }()
			mustBe(t, <-errs, ErrProtocol)
			mustBe(t, <-errs, ErrProtocol)
			continue
		}
		go func() { _, err := Stdio(testContext(t), r2, w1, role, o); errs <- err }()
		go func() { _, err := Stdio(testContext(t), r1, w2, role, o); errs <- err }()
		mustBe(t, <-errs, errHandshake)
		<-errs
	}
}

// async writes without waiting.
type async struct{ w io.Writer }

func (a async) Write(p []byte) (int, error) {
	go func() { _, _ = a.w.Write(p) }()
	return len(p), nil
}

// TestStuckClients has clients that say nothing, or nonsense, at every stage.
func TestStuckClients(t *testing.T) {
	o := Options{HandshakeTimeout: 300 * time.Millisecond}
	s := newSite(t, o)
	id := newTestIdentity(t)
	must(t, s.auth.Authorize(id.Fingerprint(), ""))
	var stuck []net.Conn
	for range 8 {
		c, err := net.Dial("tcp", s.addr())
		must(t, err)
		stuck = append(stuck, c)
		c, err = tls.Dial("tcp", s.addr(), sourceConfig(id, s.id.Fingerprint()))
		must(t, err)
		stuck = append(stuck, c)
	}
	a, err := Dial(testContext(t), s.addr(), id, s.pin(), Options{})
	must(t, err)
	b, err := s.listen.Accept(testContext(t))
	must(t, err)
	closeBoth(t, a, b)
	for _, c := range stuck {
		must(t, c.SetReadDeadline(time.Now().Add(patience)))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a stuck client is kept")
		}
		c.Close()
	}
	eventually(t, "places come free", func() bool {
		s.listen.mu.Lock()
		defer s.listen.mu.Unlock()
		return s.listen.total == 0 && len(s.listen.pending) == 0 && s.listen.live == 0
	})
}

func TestPendingIsBounded(t *testing.T) {
	s := newSite(t, Options{MaxPending: 2})
	for range 2 {
		c, err := net.Dial("tcp", s.addr())
		must(t, err)
		defer c.Close()
	}
	eventually(t, "both are in", func() bool { s.listen.mu.Lock(); defer s.listen.mu.Unlock(); return s.listen.total == 2 })
	c, err := net.Dial("tcp", s.addr())
	must(t, err)
	defer c.Close()
	must(t, c.SetReadDeadline(time.Now().Add(patience)))
	if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a third client is let in")
	}
}

func TestSessionsAreBounded(t *testing.T) {
	s := newSite(t, Options{MaxSessions: 1})
	id := newTestIdentity(t)
	must(t, s.auth.Authorize(id.Fingerprint(), ""))
	a, err := Dial(testContext(t), s.addr(), id, s.pin(), Options{})
	must(t, err)
	_, err = Dial(testContext(t), s.addr(), id, s.pin(), Options{})
	mustBe(t, err, ErrBusy)
	a.Abort(nil)
	eventually(t, "the place comes free", func() bool {
		b, err := Dial(testContext(t), s.addr(), id, s.pin(), Options{})
		if err == nil {
			b.Abort(nil)
		}
		return err == nil
	})
}

// rawLane opens a lane by hand.
func rawLane(t *testing.T, s *site, id *Identity, mine preface) (preface, error) {
	t.Helper()
	d := &dialer{addr: s.addr(), id: id, want: s.id.Fingerprint(), o: Options{}.withDefaults()}
	mine.versions, mine.role = d.o.versions, Source
	lane, answer, err := d.lane(testContext(t), mine)
	if lane != nil {
		t.Cleanup(func() { lane.Close() })
	}
	return answer, err
}

func TestLanesMustBelong(t *testing.T) {
	s := newSite(t, Options{HandshakeTimeout: 500 * time.Millisecond})
	id, other := newTestIdentity(t), newTestIdentity(t)
	must(t, s.auth.Authorize(id.Fingerprint(), ""))
	must(t, s.auth.Authorize(other.Fingerprint(), ""))
	first := preface{lanes: 3, session: [16]byte{1}}
	answer, err := rawLane(t, s, id, first)
	must(t, err)
	if answer.join == [joinSize]byte{} {
		t.Fatal("no join token")
	}
	second := first
	second.lane, second.join = 1, answer.join
	for name, c := range map[string]struct {
		id     *Identity
		change func(p *preface)
	}{
		"no join token":   {id, func(p *preface) { p.join = [joinSize]byte{} }},
		"wrong token":     {id, func(p *preface) { p.join[0] ^= 1 }},
		"other key":       {other, func(*preface) {}},
		"other session":   {id, func(p *preface) { p.session[0] = 2 }},
		"other count":     {id, func(p *preface) { p.lanes = 4 }},
		"lane 0 a second": {id, func(p *preface) { p.lane = 0 }},
	} {
		p := second
		c.change(&p)
		_, err := rawLane(t, s, c.id, p)
		if !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := rawLane(t, s, id, preface{lanes: 17}); !errors.Is(err, ErrProtocol) {
		t.Errorf("17 lanes: %v", err)
	}
	_, err = rawLane(t, s, id, second)
	must(t, err)
	eventually(t, "a session that lacks lanes is given up", func() bool {
		s.listen.mu.Lock()
		defer s.listen.mu.Unlock()
		return s.listen.live == 0 && len(s.listen.groups) == 0
	})
}

func TestListenerEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	id := newTestIdentity(t)
	auth, err := NewAuthorizer(t.TempDir())
	must(t, err)
	l, err := Listen(ctx, "127.0.0.1:0", id, auth, Options{})
	must(t, err)
	cancel()
	_, err = l.Accept(testContext(t))
	mustBe(t, err, net.ErrClosed)
	must(t, l.Close())
	if _, err := Dial(testContext(t), l.Addr().String(), id, PeerPin{Fingerprint: id.Fingerprint()}, Options{}); err == nil {
		t.Error("still listening")
	}
}

// enrol makes a token of a site.
func (s *site) enrol(t *testing.T, ttl time.Duration) string {
	t.Helper()
	text, rec, err := NewToken(s.id, ttl)
	must(t, err)
	must(t, s.auth.AddToken(rec))
	return text
}

func TestTokenEnrols(t *testing.T) {
	s := newSite(t, Options{})
	text := s.enrol(t, time.Hour)
	known, err := NewPeers(t.TempDir())
	must(t, err)
	id := newTestIdentity(t)
	a, err := Dial(testContext(t), s.addr(), id, PeerPin{Token: text, Known: known}, Options{})
	must(t, err)
	a.Abort(nil)
	if ok, err := s.auth.Allowed(id.Fingerprint()); !ok || err != nil {
		t.Errorf("source is not recorded: %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Join(s.dir, tokenDir)); len(entries) != 0 {
		t.Errorf("token is still there: %v", entries)
	}
	// From now on keys are enough, at both sides.
	a, err = Dial(testContext(t), s.addr(), id, PeerPin{Known: known}, Options{})
	must(t, err)
	a.Abort(nil)
	// The same source may show its used token; another may not.
	a, err = Dial(testContext(t), s.addr(), id, PeerPin{Token: text}, Options{})
	must(t, err)
	a.Abort(nil)
	_, err = Dial(testContext(t), s.addr(), newTestIdentity(t), PeerPin{Token: text}, Options{})
	mustBe(t, err, ErrTokenUsed)
	mustBe(t, err, ErrUnauthorized)
}

func TestTokenExpires(t *testing.T) {
	s := newSite(t, Options{})
	text := s.enrol(t, time.Hour)
	s.auth.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	_, err := Dial(testContext(t), s.addr(), newTestIdentity(t), PeerPin{Token: text}, Options{})
	mustBe(t, err, ErrTokenExpired)

	tok, err := parseToken(text)
	must(t, err)
	tok.expires = time.Now().Add(-time.Minute)
	_, err = Dial(testContext(t), s.addr(), newTestIdentity(t), PeerPin{Token: tok.text()}, Options{})
	mustBe(t, err, ErrTokenExpired)

	_ = s.enrol(t, time.Hour)
	s.auth.now = func() time.Time { return time.Now().Add(4 * time.Hour) }
	s.auth.dropExpired()
	if entries, _ := os.ReadDir(filepath.Join(s.dir, tokenDir)); len(entries) != 0 {
		t.Errorf("expired tokens are still there: %v", entries)
	}
	if _, _, err := NewToken(s.id, 0); err == nil {
		t.Error("a token without lifetime was made")
	}
}

func TestTokenRace(t *testing.T) {
	s := newSite(t, Options{})
	text := s.enrol(t, time.Hour)
	const racers = 8
	errs := make(chan error, racers)
	for range racers {
		id := newTestIdentity(t)
		go func() {
			a, err := Dial(testContext(t), s.addr(), id, PeerPin{Token: text}, Options{Lanes: 1})
			if err == nil {
				a.Abort(nil)
			}
			errs <- err
		}()
	}
	admitted := 0
	for range racers {
		if err := <-errs; err == nil {
			admitted++
		} else if !errors.Is(err, ErrTokenUsed) {
			t.Error(err)
		}
	}
	if admitted != 1 {
		t.Errorf("one token admitted %d sources", admitted)
	}
}

func TestTokenProofIsBound(t *testing.T) {
	s := newSite(t, Options{})
	text := s.enrol(t, time.Hour)
	tok, err := parseToken(text)
	must(t, err)
	// A proof made on another connection, or by chance.
	p := preface{lanes: 1, flags: prefaceProof, tokenID: tokenID(tok.secret), proof: [proofSize]byte{1}}
	_, err = rawLane(t, s, newTestIdentity(t), p)
	mustBe(t, err, ErrUnauthorized)
	if errors.Is(err, ErrTokenUsed) {
		t.Errorf("wrong proof used the token up: %v", err)
	}
	a, err := Dial(testContext(t), s.addr(), newTestIdentity(t), PeerPin{Token: text}, Options{})
	must(t, err)
	a.Abort(nil)

	var x, y [32]byte
	y[0] = 1
	base := tokenProof(tok.secret, x[:], x, x)
	for _, other := range [][32]byte{tokenProof(tok.secret, y[:], x, x), tokenProof(tok.secret, x[:], y, x), tokenProof(tok.secret, x[:], x, y)} {
		if other == base {
			t.Error("proof leaves something out")
		}
	}
}

func TestTokenText(t *testing.T) {
	id := newTestIdentity(t)
	text, rec, err := NewToken(id, time.Hour)
	must(t, err)
	if !strings.HasPrefix(text, "mgt1-") || strings.ToLower(text) != text || strings.Contains(text, "=") {
		t.Errorf("token looks like %s", text)
	}
	tok, err := parseToken(" " + strings.ToUpper(text) + "\n")
	if err != nil || tok.secret != rec.secret || formatFingerprint(tok.fingerprint) != id.Fingerprint() || !tok.expires.Equal(rec.Expires) {
		t.Errorf("token reads as %+v, %v", tok, err)
	}
	for i := range len(text) {
		bad := text[:i] + string('a'+(text[i]+1)%20) + text[i+1:]
		if bad == text {
			continue
		}
		if _, err := parseToken(bad); !errors.Is(err, ErrToken) {
			t.Errorf("changed at %d: %v", i, err)
		} else if strings.Contains(err.Error(), text[8:20]) {
			t.Errorf("error shows the secret: %v", err)
		}
	}
	for _, bad := range []string{"", "mgt1-", text[:len(text)-1], text + "a", "mgt2-" + text[5:]} {
		if _, err := parseToken(bad); !errors.Is(err, ErrToken) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	_, err = Dial(testContext(t), "127.0.0.1:1", id, PeerPin{Token: text, Fingerprint: newTestIdentity(t).Fingerprint()}, Options{})
	mustBe(t, err, ErrPeerKey)
}

func ExampleSSHCommand() {
	argv, err := SSHCommand("root", "b.example", 0, []string{"migrate", "recv", "--stdio"}, nil)
	fmt.Println(argv[len(argv)-3:], err)
	// Output: [-- b.example migrate recv --stdio] <nil>
}
