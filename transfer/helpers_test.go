package transfer

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// patience is how long tests wait for what must happen.
const patience = 20 * time.Second

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newTestIdentity(t testing.TB) *Identity {
	t.Helper()
	id, err := LoadOrCreateIdentity(t.TempDir())
	must(t, err)
	return id
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBe(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("error is %v, want one that matches %v", err, target)
	}
}

// site is a destination that listens on loopback.
type site struct {
	id     *Identity
	auth   *Authorizer
	dir    string
	listen *Listener
}

func newSite(t testing.TB, o Options) *site {
	t.Helper()
	s := &site{id: newTestIdentity(t), dir: t.TempDir()}
	var err error
	s.auth, err = NewAuthorizer(s.dir)
	must(t, err)
	s.listen, err = Listen(context.Background(), "127.0.0.1:0", s.id, s.auth, o)
	must(t, err)
	t.Cleanup(func() { s.listen.Close() })
	return s
}

func (s *site) addr() string { return s.listen.Addr().String() }

func (s *site) pin() PeerPin { return PeerPin{Fingerprint: s.id.Fingerprint()} }

// tlsPair is a session between two sides of this process, over TLS.
func tlsPair(t testing.TB, src, dst Options) (*Session, *Session) {
	t.Helper()
	s := newSite(t, dst)
	id := newTestIdentity(t)
	must(t, s.auth.Authorize(id.Fingerprint(), "test"))
	a, err := Dial(testContext(t), s.addr(), id, s.pin(), src)
	must(t, err)
	b, err := s.listen.Accept(testContext(t))
	must(t, err)
	return ended(t, a, b)
}

// pipePair is a session over pipes.
func pipePair(t testing.TB, src, dst Options) (*Session, *Session) {
	t.Helper()
	toDst, fromSrc := io.Pipe()
	toSrc, fromDst := io.Pipe()
	return openPair(t, toSrc, fromSrc, toDst, fromDst, src, dst)
}

func openPair(t testing.TB, srcR io.Reader, srcW io.Writer, dstR io.Reader, dstW io.Writer, src, dst Options) (*Session, *Session) {
	t.Helper()
	var a *Session
	opened := make(chan error, 1)
	go func() {
		var err error
		a, err = Stdio(testContext(t), srcR, srcW, Source, src)
		opened <- err
	}()
	b, err := Stdio(testContext(t), dstR, dstW, Destination, dst)
	must(t, errors.Join(err, <-opened))
	return ended(t, a, b)
}

// ended makes sure that no session outlives its test.
func ended(t testing.TB, a, b *Session) (*Session, *Session) {
	t.Cleanup(func() { a.Abort(nil); b.Abort(nil) })
	return a, b
}

// pairs are the kinds of session every behaviour must hold on.
var pairs = map[string]func(t testing.TB) (*Session, *Session){
	"tls, 1 lane":  func(t testing.TB) (*Session, *Session) { return tlsPair(t, Options{Lanes: 1}, Options{}) },
	"tls, 4 lanes": func(t testing.TB) (*Session, *Session) { return tlsPair(t, Options{Lanes: 4}, Options{}) },
	"pipe":         func(t testing.TB) (*Session, *Session) { return pipePair(t, Options{}, Options{}) },
}

func closeBoth(t testing.TB, a, b *Session) {
	t.Helper()
	errs := make(chan error, 1)
	go func() { errs <- a.Close() }()
	must(t, errors.Join(b.Close(), <-errs))
}

// noise is n bytes that do not compress; text is n that do.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func text(n int) []byte {
	line := []byte("a page of memory looks much like the page before it, with small changes 0123456789\n")
	return bytes.Repeat(line, n/len(line)+1)[:n]
}

// eventually waits for a condition that other goroutines bring about.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: did not happen in %v", what, patience)
		}
	}
}

// group runs functions side by side and reports their errors.
type testGroup struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

func (g *testGroup) run(f func() error) {
	g.wg.Go(func() {
		if err := f(); err != nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.errs = append(g.errs, err)
		}
	})
}

func (g *testGroup) wait(t testing.TB) {
	t.Helper()
	g.wg.Wait()
	must(t, errors.Join(g.errs...))
}

// TestMain lets the test binary play the remote side of DialCommand.
func TestMain(m *testing.M) {
	if os.Getenv("TRANSFER_TEST_REMOTE") != "" {
		remoteSide()
		return
	}
	os.Exit(m.Run())
}
