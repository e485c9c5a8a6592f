package transfer

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Listener takes sessions in at a destination. Connections are served side by
// side: one that is stuck or unwelcome holds up nobody.
type Listener struct {
	ln   net.Listener
	id   *Identity
	auth *Authorizer
	o    Options
	conf *tls.Config

	ready  chan *Session
	ctx    context.Context // ends with the listener
	cancel context.CancelFunc

	mu      sync.Mutex
	groups  map[[sessionIDSize]byte]*group // sessions that wait for lanes
	live    int                            // sessions, those in groups included
	pending map[string]int                 // connections in their handshake, by host
	total   int                            // of them
}

// group is a session some of whose lanes have come.
type group struct {
	fingerprint string
	first       preface // of lane 0
	version     uint16
	name        string
	join        [joinSize]byte
	lanes       []transport
	answered    int // lanes that have got their answer
	timer       *time.Timer
}

// Listen takes sessions in at addr (host:port) for the destination id until
// ctx ends or Close is called. auth decides who may come in.
func Listen(ctx context.Context, addr string, id *Identity, auth *Authorizer, o Options) (*Listener, error) {
	if auth == nil {
		return nil, errors.New("listen: no authorizer")
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	o = o.withDefaults()
	l := &Listener{
		ln: ln, id: id, auth: auth, o: o, conf: destinationConfig(id),
		ready:   make(chan *Session, o.MaxSessions),
		groups:  make(map[[sessionIDSize]byte]*group),
		pending: make(map[string]int),
	}
	l.ctx, l.cancel = context.WithCancel(ctx)
	context.AfterFunc(l.ctx, l.shutdown)
	go l.serve()
	return l, nil
}

// Addr is the address that is listened on.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Accept returns the next session all of whose lanes have come. The caller
// ends it with Close or Abort.
func (l *Listener) Accept(ctx context.Context) (*Session, error) {
	for {
		select {
		case s := <-l.ready:
			if s.Err() == nil {
				return s, nil
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("accept session: %w", context.Cause(ctx))
		case <-l.ctx.Done():
			return nil, fmt.Errorf("accept session: %w", net.ErrClosed)
		}
	}
}

// Close stops listening and drops sessions that Accept has not returned, as
// does the end of Listen's ctx. Those it has returned go on.
func (l *Listener) Close() error {
	l.cancel()
	l.shutdown()
	return nil
}

// shutdown drops all that is on its way to Accept. l.ctx has ended, so nothing
// new is put there.
func (l *Listener) shutdown() {
	if err := l.ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		l.o.Log.Warn("stop listening", "err", err)
	}
	l.mu.Lock()
	for id, g := range l.groups {
		l.drop(id, g)
	}
	l.mu.Unlock()
	for {
		select {
		case s := <-l.ready:
			s.Abort(net.ErrClosed)
		default:
			return
		}
	}
}

// serve accepts connections.
func (l *Listener) serve() {
	for {
		conn, err := l.ln.Accept()
		if l.ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			// Out of file descriptors, most likely; that passes.
			l.o.Log.Warn("accept connection", "err", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if !l.enter(conn) {
			l.o.Log.Warn("too many connections in handshake", "peer", conn.RemoteAddr().String())
			conn.Close()
			continue
		}
		go func() {
			defer l.leave(conn)
			if err := l.handshake(conn); err != nil {
				l.o.Log.Warn("connection refused", "peer", conn.RemoteAddr().String(), "err", err)
			}
		}()
	}
}

func hostOf(conn net.Conn) string {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return ""
	}
	return host
}

// enter counts a connection in, if there is room for it.
func (l *Listener) enter(conn net.Conn) bool {
	host := hostOf(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.o.MaxPending || l.pending[host] >= maxPendingHost {
		return false
	}
	l.total++
	l.pending[host]++
	return true
}

func (l *Listener) leave(conn net.Conn) {
	host := hostOf(conn)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.pending[host]--; l.pending[host] == 0 {
		delete(l.pending, host)
	}
}

// handshake turns a connection into a lane of a session. It owns conn.
func (l *Listener) handshake(conn net.Conn) error {
	ctx, cancel := context.WithTimeoutCause(l.ctx, l.o.HandshakeTimeout, errHandshake)
	defer cancel()
	var g *group
	server := func(c net.Conn) *tls.Conn { return tls.Server(c, l.conf) }
	_, err := secure(ctx, conn, server, func(t *tlsTransport, cs tls.ConnectionState) error {
		theirs, version, err := receive(t, l.o)
		if err == nil {
			g, err = l.place(t, cs, theirs, version)
		}
		var join [joinSize]byte
		if g != nil && theirs.lane == 0 {
			join = g.join
		}
		return answer(t, l.o, theirs, version, join, err)
	})
	if g == nil {
		return err
	}
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drop(g.first.session, g)
		return err
	}
	l.complete(g)
	return nil
}

// place finds the group a lane belongs to, or makes it for lane 0, and puts
// the lane into it. Without an error there is a group.
func (l *Listener) place(t *tlsTransport, cs tls.ConnectionState, theirs preface, version uint16) (*group, error) {
	fingerprint, err := peerFingerprint(cs)
	if err != nil {
		return nil, err
	}
	tune(t.raw, Options{Lanes: int(theirs.lanes)})
	if theirs.lane != 0 {
		return l.joinGroup(t, fingerprint, theirs, version)
	}
	g := &group{
		fingerprint: fingerprint, first: theirs, version: version,
		name: t.raw.RemoteAddr().String(), lanes: make([]transport, theirs.lanes),
	}
	g.lanes[0] = t
	if _, err := rand.Read(g.join[:]); err != nil {
		return nil, err
	}
	if err := l.reserve(); err != nil {
		return nil, err
	}
	if err := l.admit(g, cs); err != nil {
		l.release()
		return nil, err
	}
	return g, nil
}

// admit asks whether lane 0's source may come in and lists its group.
func (l *Listener) admit(g *group, cs tls.ConnectionState) error {
	material, err := cs.ExportKeyingMaterial(exporterLabel, nil, proofSize)
	if err != nil {
		return fmt.Errorf("bind enrolment token to connection: %w", err)
	}
	err = l.auth.admit(claim{
		source: g.fingerprint, destination: l.id.Fingerprint(),
		address: g.name, material: material, preface: g.first,
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.groups[g.first.session] != nil {
		return refuse(statusJoin)
	}
	l.groups[g.first.session] = g
	g.timer = time.AfterFunc(l.o.HandshakeTimeout, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.drop(g.first.session, g)
	})
	return nil
}

// joinGroup puts a further lane into its group. It must come from the key
// that opened lane 0 and show the join token lane 0 was given.
func (l *Listener) joinGroup(t transport, fingerprint string, theirs preface, version uint16) (*group, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.groups[theirs.session]
	if g == nil || g.fingerprint != fingerprint ||
		subtle.ConstantTimeCompare(g.join[:], theirs.join[:]) != 1 ||
		int(theirs.lanes) != len(g.lanes) || version != g.version || g.lanes[theirs.lane] != nil {
		return nil, refuse(statusJoin)
	}
	g.lanes[theirs.lane] = t
	return g, nil
}

// complete counts an answered lane and hands the session over with the last.
func (l *Listener) complete(g *group) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.answered++
	if g.answered < len(g.lanes) || l.groups[g.first.session] != g {
		return
	}
	if l.ctx.Err() != nil || len(l.ready) == cap(l.ready) {
		l.drop(g.first.session, g)
		return
	}
	g.timer.Stop()
	delete(l.groups, g.first.session)
	peer := PeerInfo{Fingerprint: g.fingerprint, Name: g.name, Role: Source, Version: g.version}
	// Only here, under the lock, is ready sent to, so there is room. The
	// session's end calls release, from a goroutine of its own.
	l.ready <- newSession(g.lanes, peer, g.first, l.o, l.release)
}

// drop gives a group that is not whole up. l.mu is held.
func (l *Listener) drop(id [sessionIDSize]byte, g *group) {
	if l.groups[id] != g {
		return
	}
	delete(l.groups, id)
	g.timer.Stop()
	l.live--
	for _, t := range g.lanes {
		if t != nil {
			t.Close()
		}
	}
}

// reserve takes a place for a session, release gives it back.
func (l *Listener) reserve() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.live >= l.o.MaxSessions {
		return refuse(statusBusy)
	}
	l.live++
	return nil
}

func (l *Listener) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live--
}
